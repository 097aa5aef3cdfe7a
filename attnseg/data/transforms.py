"""Geometry on the host: scale, crop, flip, rotation and padding, each image resampled once.

Pixels are squares and a coordinate names the middle of one, as in `cv2.resize`: scaling then
cropping in two steps gives the same result. Photometric changes and normalisation are not made
here but on the device, where they cost nothing.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from attnseg.core.errors import check
from attnseg.core.types import IGNORE, IMAGE, IMAGENET, LABEL, Example

CROP_TRIES = 10
TRIAL_STRIDE = 4  # a trial crop is judged on every fourth pixel of every fourth row
# Normalised, this is zero: what mmsegmentation pads with.
IMAGE_PADDING = np.rint(IMAGENET.mean).astype(np.uint8)


def fit_scale(size: tuple[int, int], resize: tuple[int, int] | None) -> float:
    """Returns the factor that fits an image into `resize`, keeping its ratio; 1 without one.

    As mmsegmentation has it: the longer side to at most the longer of `resize`, the shorter side
    to at most the shorter, whichever way round they lie.

    Args:
      size, resize: (h, w) in pixels.
    """
    if resize is None:
        return 1.0
    return min(max(resize) / max(size), min(resize) / min(size))


def check_scale_step(scale: tuple[float, float], step: float) -> None:
    """Checks that steps of `step` lead from one end of the range `scale` to the other.

    Raises:
      UserError: they do not.
    """
    steps = (scale[1] - scale[0]) / step if step else 0.0
    check(
        step >= 0 and abs(steps - round(steps)) < 1e-6,
        f"data.scale_step={step:g} does not lead from {scale[0]:g} to {scale[1]:g}; use a whole "
        "part of the range of data.scale, or 0 for any factor in it.",
    )


def _scaled(
    size: tuple[int, int], resize: tuple[int, int] | None, keep_ratio: bool, scale: float = 1.0
) -> tuple[int, int]:
    """(h, w) after fitting into `resize`, or stretching to it, and scaling."""
    if keep_ratio or resize is None:
        resize, scale = size, scale * fit_scale(size, resize)
    return max(1, round(resize[0] * scale)), max(1, round(resize[1] * scale))


@dataclasses.dataclass(frozen=True)
class RandomGeometry:
    """Random scale, crop, flip and rotation of an example: one resample, output of one size.

    Attributes:
      crop: (h, w) of the output in pixels.
      resize: (h, w) that the image is fitted into before the random scale; None leaves it.
      keep_ratio: fit it in whole; without it the image is stretched to `resize`.
      scale: least and greatest random factor.
      scale_step: factors are this far from one to the next; 0 takes any.
      flip, flip_vertical: chance of a flip from side to side, and of one from top to bottom.
      rotation: greatest turn of the crop about its middle, either way, in degrees. Corners show
        what the image has there, and beyond its edge the mean colour and `IGNORE`.
      cat_max_ratio: share of the valid pixels above which one class spoils a crop; another place
        is tried, `CROP_TRIES` times at most. 1 accepts every crop.
      pad: fill up images smaller than the crop, at the right and the bottom, with the mean colour
        and `IGNORE`; without it they are an error.
    """

    crop: tuple[int, int]
    resize: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    cat_max_ratio: float = 0.75
    pad: bool = True
    keep_ratio: bool = True
    scale_step: float = 0.0
    flip_vertical: float = 0.0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        check_scale_step(self.scale, self.scale_step)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Returns image u8 [crop 3] and label u8 [crop]; other keys are left out.

        Raises:
          UserError: the scaled image is smaller than the crop and `pad` is False.
        """
        image, label = example[IMAGE], example[LABEL]
        size = image.shape[:2]
        scaled = _scaled(size, self.resize, self.keep_ratio, self._scale(rng))
        self._check_fits(size, scaled)
        rows, cols = self._window(label, scaled, rng)
        if rng.uniform() < self.flip:
            cols = cols[::-1]
        # What is off draws no numbers.
        if self.flip_vertical and rng.uniform() < self.flip_vertical:
            rows = rows[::-1]
        if self.rotation:
            angle = rng.uniform(-self.rotation, self.rotation)
            image, label = _sample_rotated(image, label, scaled, rows, cols, angle)
        else:
            image = _sample_image(image, scaled, rows, cols)
            label = _sample_label(label, scaled, rows, cols)
        return {
            IMAGE: _padded(image, self.crop, IMAGE_PADDING),
            LABEL: _padded(label, self.crop, IGNORE),
        }

    def _scale(self, rng) -> float:
        low, high = self.scale
        if not self.scale_step:
            return rng.uniform(low, high)
        steps = round((high - low) / self.scale_step)
        return low + self.scale_step * int(rng.integers(steps + 1))

    def check_crop(self, size: tuple[int, int]) -> None:
        """Checks an example's size (h, w) before training, at the smallest scale.

        Raises:
          UserError: images of this size can come out smaller than the crop and `pad` is False.
        """
        self._check_fits(size, _scaled(size, self.resize, self.keep_ratio, self.scale[0]))

    def _check_fits(self, size, scaled) -> None:
        fits = scaled[0] >= self.crop[0] and scaled[1] >= self.crop[1]
        check(
            self.pad or fits,
            f"an image of {size[1]}x{size[0]} is scaled to {scaled[1]}x{scaled[0]} (width x "
            f"height), less than the crop of {self.crop[1]}x{self.crop[0]}; pad it, or choose a "
            "smaller crop or a greater smallest scale.",
        )

    def _window(self, label, scaled, rng) -> tuple[np.ndarray, np.ndarray]:
        """Picks rows and columns of the scaled image, at most as many as the crop has."""
        height, width = min(self.crop[0], scaled[0]), min(self.crop[1], scaled[1])
        for _ in range(CROP_TRIES):
            top = int(rng.integers(scaled[0] - height + 1))
            left = int(rng.integers(scaled[1] - width + 1))
            rows, cols = np.arange(top, top + height), np.arange(left, left + width)
            if self.cat_max_ratio >= 1:
                break
            trial = _sample_label(label, scaled, rows[::TRIAL_STRIDE], cols[::TRIAL_STRIDE])
            counts = np.bincount(trial.ravel(), minlength=IGNORE + 1)[:IGNORE]
            if np.count_nonzero(counts) > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
        return rows, cols


@dataclasses.dataclass(frozen=True)
class EvalResize:
    """Fits the image into `resize` (h, w), or stretches it to that; the label keeps its own size.

    None leaves the image as it is. Either way the sides are then stretched up to the next
    multiples of `multiple` (SegFormer's and SegNeXt's test on ADE20K: 32); 1 stretches nothing.
    """

    resize: tuple[int, int] | None = None
    keep_ratio: bool = True
    multiple: int = 1

    def __call__(self, example: Example) -> Example:
        """Returns the example with image u8 [h' w' 3]; everything else is as it was."""
        return example | {IMAGE: self.resized(example[IMAGE])}

    def fitted(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """(h, w) of an image of `size` after fitting, times `scale`."""
        scaled = _scaled(size, self.resize, self.keep_ratio, scale)
        return tuple(-(-side // self.multiple) * self.multiple for side in scaled)

    def resized(self, image: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """u8 [h w 3] after fitting, times `scale`, in one resampling; `image` where it fits."""
        scaled = self.fitted(image.shape[:2], scale)
        if scaled == image.shape[:2]:
            return image
        return cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)


def _source_matrix(size, scaled, rows, cols) -> np.ndarray:
    """The map [2 3] from (x, y, 1) in the window `rows`, `cols` to x and y in the image."""
    fy, fx = size[0] / scaled[0], size[1] / scaled[1]
    down = fy if rows[-1] >= rows[0] else -fy
    right = fx if cols[-1] >= cols[0] else -fx
    return np.array([[right, 0, (cols[0] + 0.5) * fx - 0.5], [0, down, (rows[0] + 0.5) * fy - 0.5]])


def _warp(array, matrix, rows, cols, interpolation, border, value=0) -> np.ndarray:
    flags = interpolation | cv2.WARP_INVERSE_MAP
    size = (len(cols), len(rows))
    return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=border, borderValue=value)


def _sample_image(image, scaled, rows, cols) -> np.ndarray:
    """Bilinear values at `rows` and `cols` (evenly spaced, may run backwards) of a scaled image."""
    matrix = _source_matrix(image.shape, scaled, rows, cols)
    # The edge is repeated, not padded here: black would bleed into the outermost half pixel.
    return _warp(image, matrix, rows, cols, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def _sample_label(label, scaled, rows, cols) -> np.ndarray:
    """Nearest values at `rows` and `cols` of a scaled label (`cv2.INTER_NEAREST_EXACT`)."""
    # Integers: pixel y of n covers the middle at (y + 1/2) h / n, exactly.
    source_rows = (2 * rows + 1) * label.shape[0] // (2 * scaled[0])
    source_cols = (2 * cols + 1) * label.shape[1] // (2 * scaled[1])
    return label[source_rows][:, source_cols]


def _sample_rotated(image, label, scaled, rows, cols, angle) -> tuple[np.ndarray, np.ndarray]:
    """Image and label at a window of the scaled image, turned clockwise by `angle` degrees."""
    middle = ((len(cols) - 1) / 2, (len(rows) - 1) / 2)
    back = np.vstack([cv2.getRotationMatrix2D(middle, angle, 1.0), [0, 0, 1]])
    matrix = _source_matrix(label.shape, scaled, rows, cols) @ back
    nearest = (matrix, rows, cols, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    image = _warp(image, matrix, rows, cols, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    image[_warp(np.ones_like(label), *nearest) == 0] = IMAGE_PADDING
    return image, _warp(label, *nearest, IGNORE)


def _padded(array: np.ndarray, size: tuple[int, int], value: int | np.ndarray) -> np.ndarray:
    """Fills up [h w ...] at the bottom and the right to `size`."""
    if array.shape[:2] == tuple(size):
        return np.ascontiguousarray(array)
    full = np.full((*size, *array.shape[2:]), value, array.dtype)
    full[: array.shape[0], : array.shape[1]] = array
    return full
