"""Weight files and state dicts as plain arrays. Nothing here runs code from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import UserError, check

WRAPPERS = ("state_dict", "model")  # keys under which trainers put the weights
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")


def _read_torch(path: Path) -> Any:
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
            f"{path} cannot be read as plain weights ({str(error).splitlines()[0]}); files with "
            "pickled code are refused, convert it to safetensors where you trust it."
        ) from error


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def read_state(source: str | Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns ``{key: array}`` of a .safetensors, .npz or torch file, or of a state dict.

    Containers of trainers (``state_dict``, ``model``) are opened and the prefix ``module.`` of
    parallel training is dropped.

    Raises:
      UserError: no such file, an unknown kind of file, or nothing but other objects inside.
    """
    what = "the state dict" if isinstance(source, Mapping) else str(source)
    if isinstance(source, Mapping):
        state: Any = source
    else:
        path = Path(source)
        check(path.is_file(), f"there is no weight file {path}.")
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            try:
                state = load_file(path)
            except Exception as error:
                raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
        elif path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as archive:
                    state = dict(archive)
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is not a readable npz file ({error}).") from error
        else:
            known = ", ".join((".safetensors", ".npz", *TORCH_SUFFIXES))
            check(path.suffix in TORCH_SUFFIXES, f"{path}: unknown suffix; readable: {known}.")
            state = _read_torch(path)
    check(
        isinstance(state, Mapping), f"{what} holds a {type(state).__name__}, not weights by name."
    )
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    arrays = {
        key.removeprefix("module."): _as_array(value)
        for key, value in state.items()
        if hasattr(value, "shape")
    }
    check(bool(arrays), f"{what} holds no weights.")
    return arrays
