"""One side of an image: where windows lie on it, and what each one's logits give a pixel.

Everything from a window's grid of logits to a pixel of the result is linear and separable:
enlarge the window's logits to its pixels, divide by the number of windows over a pixel, resize to
the side of the result. So a block of the result is a sum of ``rows @ logits @ columns`` with two
small matrices, and no map of the whole image is needed. Half-pixel centres throughout.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows over `length` pixels, as mmsegmentation places them.

    Every `stride` pixels; the last one is moved back to end with the image. One at 0 where
    `window` covers all.
    """
    if window >= length:
        return (0,)
    steps = -(-(length - window) // stride)
    return tuple(min(step * stride, length - window) for step in range(steps + 1))


@dataclasses.dataclass(frozen=True)
class Axis:
    """Windows over one side of an image.

    Attributes:
      source: pixels of the image as the network sees it.
      target: pixels of the result.
      window: pixels of a window; None for one that covers all.
      stride: pixels from one window to the next.
      bucket: a window that covers all is filled up to a multiple of this.
    """

    source: int
    target: int
    window: int | None = None
    stride: int = 1
    bucket: int = 1

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each window."""
        return window_starts(self.source, self.window or self.source, self.stride)

    @property
    def span(self) -> int:
        """Pixels of the image in a window."""
        return min(self.window or self.source, self.source)

    @property
    def padded(self) -> int:
        """Pixels of a window as the network gets it, filling included."""
        if len(self.starts) > 1:
            return self.span
        filled = -(-self.source // self.bucket) * self.bucket
        return max(self.source, min(filled, self.window or filled))

    def touching(self, first: int, count: int) -> range:
        """Numbers of the windows that the pixels `first` ... of the result are made of."""
        pixels = np.clip([first, first + count - 1], 0, self.target - 1)
        low, high, _ = _taps(self._positions(pixels), self.source)
        begin, end = low[0], high[1]
        hit = [i for i, s in enumerate(self.starts) if s <= end and begin < s + self.span]
        return range(hit[0], hit[-1] + 1)

    def reach(self, grid: int, count: int) -> int:
        """Neighbouring logits, of `grid` in a window, that `count` pixels are made of at most.

        A multiple of 8 or all, so that images of many sizes share programs.
        """
        pixels = math.ceil((count - 1) * self.source / self.target) + 3
        return min(grid, -(-(math.ceil(pixels * grid / self.padded) + 2) // 8) * 8)

    def weights(self, index: int, grid: int, first: int, count: int) -> np.ndarray:
        """What the logits of window `index` give to the pixels `first` ... of the result.

        Over all windows the weights of a pixel add up to one. Pixels outside of the result get
        nothing.

        Returns:
          f64 [count grid].
        """
        pixels = np.arange(first, first + count)
        inside = (pixels >= 0) & (pixels < self.target)
        positions = self._positions(pixels)
        if len(self.starts) == 1:
            # In one step, so that a single window gives what the whole image does.
            matrix = _interpolation((positions + 0.5) * (grid / self.padded) - 0.5, grid)
        else:
            low, high, fraction = _taps(positions, self.source)
            matrix = (1 - fraction)[:, None] * self._of_window(index, grid, low)
            matrix += fraction[:, None] * self._of_window(index, grid, high)
        return np.where(inside[:, None], matrix, 0.0)

    def _positions(self, pixels: np.ndarray) -> np.ndarray:
        """Where in the image, in pixels from the middle of the first, pixels of the result lie."""
        return (pixels + 0.5) * (self.source / self.target) - 0.5

    def _of_window(self, index: int, grid: int, pixels: np.ndarray) -> np.ndarray:
        """What a window gives to pixels of the image: its share of their mean."""
        starts = np.asarray(self.starts)[:, None]
        over = (starts <= pixels) & (pixels < starts + self.span)
        share = over[index] / np.maximum(over.sum(0), 1)
        positions = (pixels - self.starts[index] + 0.5) * (grid / self.span) - 0.5
        return share[:, None] * _interpolation(positions, grid)


def _taps(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two neighbours of each position among `size` samples, and the share of the second."""
    positions = np.clip(positions, 0.0, size - 1.0)
    low = np.floor(positions).astype(int)
    return low, np.minimum(low + 1, size - 1), positions - low


def _interpolation(positions: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation as a matrix, f64 [positions size]."""
    low, high, fraction = _taps(positions, size)
    matrix = np.zeros((len(positions), size))
    rows = np.arange(len(positions))
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix
