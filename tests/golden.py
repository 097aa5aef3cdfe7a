"""Reading of the recorded files."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "goldens"


class Packed:
    """A file that `pack_goldens` wrote: key -> array."""

    def __init__(self, name: str):
        with np.load(FOLDER / f"{name}.npz") as file:
            about = json.loads(file["about"].tobytes())
            joined = np.ascontiguousarray(file["planes"].T).view(np.float32).ravel()
            self._arrays = {k: file[k] for k in file if k not in ("about", "planes")}
        self._shared, start = about["shared"], 0
        for key, shape in about["shapes"].items():
            size = math.prod(shape)
            self._arrays[key] = joined[start : start + size].reshape(shape)
            start += size

    def __iter__(self) -> Iterator[str]:
        return iter((*self._arrays, *self._shared))

    def __contains__(self, key: str) -> bool:
        return key in self._shared or key in self._arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return common()[self._shared[key]] if key in self._shared else self._arrays[key]


@functools.cache
def common() -> Packed:
    """Arrays of several files."""
    return Packed("common")


class Golden:
    """One recorded file."""

    def __init__(self, name: str):
        self.file = Packed(name)

    def state(self) -> dict:
        """The source's state dict."""
        return self.group("w/")

    def group(self, prefix: str) -> dict:
        return {k.removeprefix(prefix): self.file[k] for k in self.file if k.startswith(prefix)}

    def __getitem__(self, key: str) -> np.ndarray:
        """An array, images and maps turned from NCHW to NHWC."""
        array = self.file[key]
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
