"""RandAugment (arXiv:1909.13719) as timm has it, with magnitudes that all grow with the level.

Operations work on u8 [h w 3] and return the same. Point operations are one table look-up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import cv2
import numpy as np

from attnseg.core.errors import check
from attnseg.core.types import IMAGENET

LEVELS = 10.0  # the level of the strongest change
FILL = tuple(np.rint(IMAGENET.mean).astype(int).tolist())  # what comes in from outside
CHANCE = 0.5  # of each operation that was chosen
ROTATION, SHEAR, SHIFT = 30.0, 0.3, 0.45  # degrees, pixels per pixel, share of the side
_RAMP = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's SMOOTH


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, table.astype(np.uint8))


def _by_channel(image: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Looks up every channel in the table made of its histogram i64 [256]."""
    planes = [np.ascontiguousarray(image[..., c]) for c in range(3)]
    tables = [table_of(np.bincount(plane.ravel(), minlength=256)) for plane in planes]
    return np.dstack([_look_up(p, t) for p, t in zip(planes, tables, strict=True)])


def auto_contrast(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Stretches each channel to 0..255."""
    del level, sign

    def table(histogram: np.ndarray) -> np.ndarray:
        used = np.flatnonzero(histogram)
        low, high = used[0], used[-1]
        if high <= low:
            return _RAMP
        scale = 255.0 / (high - low)
        return np.clip((_RAMP * scale - low * scale).astype(int), 0, 255)

    return _by_channel(image, table)


def equalize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Makes each channel's histogram as even as it can be."""
    del level, sign

    def table(histogram: np.ndarray) -> np.ndarray:
        used = histogram[histogram > 0]
        step = (histogram.sum() - used[-1]) // 255
        if len(used) <= 1 or not step:
            return _RAMP
        before = np.cumsum(histogram) - histogram
        return np.minimum((step // 2 + before) // step, 255)

    return _by_channel(image, table)


def invert(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Negative."""
    del level, sign
    return 255 - image


def posterize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Keeps the 4 (level 0) to 0 (level 10) highest bits."""
    del sign
    bits = 4 - int(level / LEVELS * 4)
    return image & np.uint8(256 - 2 ** (8 - bits))


def solarize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Inverts what is as bright as a threshold, which falls from 256 to 0."""
    del sign
    threshold = 256 - min(256, int(level / LEVELS * 256))
    return _look_up(image, np.where(threshold > _RAMP, _RAMP, 255 - _RAMP))


def solarize_add(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Adds 0 to 110 to what is darker than 128."""
    del sign
    added = min(128, int(level / LEVELS * 110))
    return _look_up(image, np.where(_RAMP < 128, np.minimum(255, _RAMP + added), _RAMP))


def _factor(level: float, sign: int) -> float:
    return max(0.1, 1.0 + sign * level / LEVELS * 0.9)


def _blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """Moves the image away from `other` (factor > 1) or towards it; cut off, not rounded."""
    mixed = other + np.float32(factor) * (image.astype(np.float32) - other)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _grey(image: np.ndarray) -> np.ndarray:
    """u8 [h w], as Pillow rounds it."""
    return (image @ np.array([19595, 38470, 7471], np.int64) + 0x8000 >> 16).astype(np.uint8)


def color(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Saturation."""
    return _blend(image, _grey(image)[..., None].astype(np.float32), _factor(level, sign))


def contrast(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Away from or towards the mean grey."""
    mean = int(_grey(image).mean() + 0.5)
    table = _blend(_RAMP, np.float32(mean), _factor(level, sign))
    return _look_up(image, table)


def brightness(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Away from or towards black."""
    return _look_up(image, _blend(_RAMP, np.float32(0), _factor(level, sign)))


def sharpness(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Away from or towards a smoothed image, whose border row and column stay as they are."""
    smooth = image.astype(np.float32)
    inner = cv2.filter2D(smooth, -1, _SMOOTH)[1:-1, 1:-1]
    smooth[1:-1, 1:-1] = np.floor(inner + 0.5)
    return _blend(image, smooth, _factor(level, sign))


def _warp(image: np.ndarray, linear: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Bilinear; pixel (x, y), its middle at + 1/2, shows ``linear @ (x, y) + shift``."""
    middle = np.array([0.5, 0.5])
    offset = linear @ middle + shift - middle
    return cv2.warpAffine(
        image,
        np.column_stack([linear, offset]),
        image.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderValue=FILL,
    )


def rotate(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """About the middle, up to 30 degrees, anticlockwise if positive."""
    angle = np.deg2rad(sign * level / LEVELS * ROTATION)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    middle = np.array(image.shape[1::-1]) / 2
    return _warp(image, linear, middle - linear @ middle)


def shear_x(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Moves rows by up to 0.3 of their number."""
    return _warp(image, np.array([[1, sign * level / LEVELS * SHEAR], [0, 1]]), (0, 0))


def shear_y(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Moves columns by up to 0.3 of their number."""
    return _warp(image, np.array([[1, 0], [sign * level / LEVELS * SHEAR, 1]]), (0, 0))


def translate_x(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """By up to 0.45 of the width."""
    return _warp(image, np.eye(2), (sign * level / LEVELS * SHIFT * image.shape[1], 0))


def translate_y(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """By up to 0.45 of the height."""
    return _warp(image, np.eye(2), (0, sign * level / LEVELS * SHIFT * image.shape[0]))


Operation = Callable[[np.ndarray, float, int], np.ndarray]
OPERATIONS: tuple[Operation, ...] = (
    auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, color, contrast,
    brightness, sharpness, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Draws `count` of `OPERATIONS`, each done with probability 1/2.

    Attributes:
      level: mean of the strength, 0..10.
      deviation: standard deviation of the strength, drawn for each operation.
      count: operations drawn for an image, with replacement.
    """

    level: float = 9.0
    deviation: float = 0.5
    count: int = 2

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """u8 [h w 3] to the same."""
        for index in rng.integers(len(OPERATIONS), size=self.count):
            chance, turn = rng.random(2)
            level = rng.normal(self.level, self.deviation)
            if chance < CHANCE:
                sign = 1 if turn < 0.5 else -1
                image = OPERATIONS[index](image, min(max(level, 0.0), LEVELS), sign)
        return image


def parse_randaugment(text: str) -> RandAugment:
    """Reads timm's notation, e.g. ``rand-m9-mstd0.5-inc1``; ``n3`` sets the number of operations.

    Raises:
      UserError: another notation, a level outside 0..10, or without ``inc1``.
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"rand-m{number}(?:-n(\d))?(?:-mstd{number})?-inc1", text)
    check(
        found is not None and float(found[1]) <= LEVELS,
        f'augment.randaugment="{text}" is not understood; write rand-mM-mstdS-inc1 with the '
        "strength M 0..10 and its deviation S, e.g. rand-m9-mstd0.5-inc1.",
    )
    return RandAugment(float(found[1]), float(found[3] or 0.0), int(found[2] or 2))
