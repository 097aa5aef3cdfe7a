"""Reading of the recorded files."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "goldens"


class Golden:
    """One recorded file."""

    def __init__(self, name: str):
        self.file = np.load(FOLDER / f"{name}.npz")

    def state(self) -> dict:
        """The source's state dict."""
        return self.group("w/")

    def group(self, prefix: str) -> dict:
        return {k.removeprefix(prefix): self.file[k] for k in self.file if k.startswith(prefix)}

    def __getitem__(self, key: str) -> np.ndarray:
        """An array, images and maps turned from NCHW to NHWC."""
        array = self.file[key]
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
