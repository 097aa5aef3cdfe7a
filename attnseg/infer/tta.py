"""How an image is looked at: whole or in windows, at which scales, and mirrored or not."""

from __future__ import annotations

import dataclasses
import math

from attnseg.core.errors import check
from attnseg.data import EvalResize
from attnseg.infer.axis import Axis

MODES = ("whole", "slide")


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of an image whose results are averaged.

    With one view the result is its logits; with several it is the mean of their softmax
    probabilities at the size of the result, as in mmsegmentation.

    Attributes:
      mode: "whole", or "slide": windows, whose logits are averaged where they overlap.
      window, stride: (h, w) in pixels, of slide. An image smaller than the window is one window.
      scales: factors on the size of the image that `fit` gives, each resampled from the original.
      flip: look at each scale mirrored as well.
      fit: the size of the image before `scales`.
      bucket: sides of windows that cover the image are filled up, at the right and the bottom, to
        multiples of this; 1 fills nothing. Sizes then share compiled programs, and the network
        sees the filling.

    Raises:
      UserError: values that mean nothing.
    """

    mode: str = "whole"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    fit: EvalResize = EvalResize()
    bucket: int = 1

    def __post_init__(self) -> None:
        check(self.mode in MODES, f'eval.mode="{self.mode}" is none of {", ".join(MODES)}.')
        check(self.bucket >= 1, f"eval.bucket={self.bucket} is too small; use at least 1.")
        check(
            len(self.scales) > 0 and all(0 < scale < math.inf for scale in self.scales),
            f"eval.scales={self.scales} are not factors; use positive numbers, (1.0,) for none.",
        )
        steps = zip(self.strides, self.window, strict=True)
        check(
            all(1 <= stride <= window for stride, window in steps),
            f"eval.stride={self.strides} leaves gaps between windows of eval.window="
            f"{self.window}; use 1 to the side of the window.",
        )

    @property
    def strides(self) -> tuple[int, int]:
        """(h, w) from one window to the next: two thirds of the window unless given."""
        if self.stride is not None:
            return self.stride
        return tuple(math.ceil(side * 2 / 3) for side in self.window)

    @property
    def count(self) -> int:
        """Views of an image."""
        return len(self.scales) * (1 + self.flip)

    def axes(self, size: tuple[int, int], target: tuple[int, int]) -> tuple[Axis, Axis]:
        """Windows over the rows and the columns of a fitted image of `size` (h, w)."""
        window = self.window if self.mode == "slide" else (None, None)
        return tuple(
            Axis(size[i], target[i], window[i], self.strides[i], self.bucket) for i in range(2)
        )
