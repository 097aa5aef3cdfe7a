"""Weight files and state dicts as plain arrays. Nothing here runs code from a file."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import UserError, check

WRAPPERS = ("state_dict", "model")  # keys under which trainers put the weights
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")

# Files unpack to at most so many times their size, or so many bytes where that is more. Weights
# are noise: they hardly compress. A zip file of zeros unpacks to a thousand times its size.
MAX_RATIO, MAX_SMALL = 20, 2**28


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 pickles them; other codecs of Python could unpack or blow up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes as {encoding}, and arrays are latin1")
    return str.encode(text, "latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module depends on numpy's version
# All that a pickled dict of arrays may name. None of it acts on anything but its arguments.
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and containers; a file that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, and no code of a file is run")
        return ADMITTED[module, name]


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _most_bytes(path: Path) -> int:
    """How much memory the content of a file may take."""
    return max(MAX_SMALL, MAX_RATIO * path.stat().st_size)


def _check_unpacked(path: Path, unpacked: int) -> None:
    size, most = path.stat().st_size, _most_bytes(path)
    check(
        unpacked <= most,
        f"{path} has {size:,} bytes and would take {unpacked:,} in memory, more than the {most:,} "
        "that weights can; it is damaged or made to fill the memory.",
    )


def _check_archive(path: Path) -> None:
    """Refuses a zip file that would fill the memory, by the sizes its directory states.

    A reader takes no more from an entry than the directory says.
    """
    with zipfile.ZipFile(path) as archive:
        _check_unpacked(path, sum(entry.file_size for entry in archive.infolist()))


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        try:
            _check_archive(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is not a readable torch file ({_reason(error)}).") from error
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a torch file; reading it needs torch: pip install 'attnseg[torch]', "
            "or convert the file to safetensors."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip and runtime errors alike
        raise UserError(
            f"{path} cannot be read as plain weights ({_reason(error)}); files with "
            "pickled code are refused, convert it to safetensors where you trust it."
        ) from error


def _read_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_npz(path: Path) -> Any:
    _check_archive(path)
    with zipfile.ZipFile(path) as archive:
        return {
            entry.filename.removesuffix(".npy"): _read_npy(archive, entry)
            for entry in archive.infolist()
        }


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array; NumPy would reserve the memory that its header claims before it reads on."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        content = entry.file_size - file.tell()
    claimed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects")
    if claimed != content:
        raise ValueError(f"{entry.filename} claims {claimed:,} bytes of {content:,}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_paddle(path: Path) -> Any:
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    ".safetensors": ("safetensors", _read_safetensors),
    ".npz": ("npz", _read_npz),
    ".pdparams": ("Paddle", _read_paddle),
}


def _read_file(path: Path) -> Any:
    check(path.is_file(), f"there is no weight file {path}.")
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    known = ", ".join((*READERS, *TORCH_SUFFIXES))
    check(path.suffix in READERS, f"{path}: unknown suffix; readable: {known}.")
    kind, read = READERS[path.suffix]
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything, from zlib to MemoryError
        raise UserError(f"{path} is not a readable {kind} file ({_reason(error)}).") from error


def _unnamed(value: Any) -> Any:
    """The array of ``(name, array)``, as which Paddle keeps a tensor that was not detached."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    return value[1] if pair else value


def _as_array(key: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        try:
            value = value.detach().cpu()
            value = value.float().numpy() if value.is_floating_point() else value.numpy()
        except Exception as error:  # sparse and quantised ones
            raise UserError(f'"{key}" is no plain tensor ({_reason(error)}).') from error
    array = np.asarray(value)
    # bfloat16 is no number to numpy.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _claimed(value: Any) -> int:
    """Bytes of an array or tensor; one whose strides are 0 claims any number of them."""
    each = value.element_size() if hasattr(value, "element_size") else value.dtype.itemsize
    return math.prod(value.shape) * each


def read_state(source: str | Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns ``{key: array}`` of a .safetensors, .npz, torch or Paddle file or of a state dict.

    Containers of trainers (``state_dict``, ``model``) are opened and the prefix ``module.`` of
    parallel training is dropped, as is what is no array (Paddle's table of names).

    Raises:
      UserError: no such file, an unknown or damaged one, or nothing but other objects inside.
    """
    memory = isinstance(source, Mapping)
    what = "the state dict" if memory else str(source)
    state = source if memory else _read_file(Path(source))
    check(
        isinstance(state, Mapping), f"{what} holds a {type(state).__name__}, not weights by name."
    )
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    values = {key: _unnamed(value) for key, value in state.items() if isinstance(key, str)}
    values = {key: v for key, v in values.items() if hasattr(v, "shape") and hasattr(v, "dtype")}
    if not memory:
        _check_unpacked(Path(source), sum(map(_claimed, values.values())))
    arrays = {key.removeprefix("module."): _as_array(key, v) for key, v in values.items()}
    check(bool(arrays), f"{what} holds no weights.")
    objects = [key for key, array in arrays.items() if array.dtype.hasobject]
    check(not objects, f"{what} holds objects that are no numbers, the first in {objects[:1]}.")
    other = [key for key, array in arrays.items() if array.dtype.kind not in "biufc"]
    check(not other, f"{what} holds other things than numbers, the first in {other[:1]}.")
    return arrays
