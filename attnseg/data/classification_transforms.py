"""Host transforms of images with one label: crop, flip and rotation in one resample; RandAugment.

Colours, erasing and mixing are left to the device, except for RandAugment, whose operations
belong together.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from attnseg.core.types import IMAGE, LABEL, Example
from attnseg.data.randaugment import RandAugment
from attnseg.data.transforms import IMAGE_PADDING

CROP_TRIES = 10
INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

Window = tuple[int, int, int, int]  # top, left, height, width in pixels


def random_window(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Window:
    """Draws the part of an image that a random resized crop takes (torchvision's).

    Args:
      size: (h, w) of the image.
      scale: least and greatest share of its area.
      ratio: least and greatest width by height.
      rng: what draws.

    Returns:
      The window; the central one of the nearest ratio when `CROP_TRIES` draws do not fit.
    """
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        first, second, third, fourth = rng.random(4)
        area = (scale[0] + (scale[1] - scale[0]) * first) * height * width
        shape = math.exp(low + (high - low) * second)
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(third * (height - h + 1)), int(fourth * (width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Random crop, flip and rotation of an image in one resample, then RandAugment.

    Attributes:
      crop: (h, w) of the output in pixels.
      scale, ratio: share of the image's area, and width by height, of the part it shows.
      flip: chance of a horizontal flip.
      rotation: greatest angle in degrees. What the turned window shows is the image around it,
        and the mean colour outside the image.
      interpolation: "bilinear" or "bicubic"; a smaller output is the mean over each pixel's area,
        so that nothing aliases.
      randaugment: operations on the result, or None.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: float = 0.0
    interpolation: str = "bicubic"
    randaugment: RandAugment | None = None

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Returns image u8 [crop 3] and label i32 []; other keys are left out."""
        image = example[IMAGE]
        window = random_window(image.shape[:2], self.scale, self.ratio, rng)
        mirrored = rng.random() < self.flip
        if self.rotation:
            angle = rng.uniform(-self.rotation, self.rotation)
            image = _turned(image, window, self.crop, angle, mirrored, self.interpolation)
        else:
            image = _resized(_part(image, window), self.crop, self.interpolation)
            image = cv2.flip(image, 1) if mirrored else image
        if self.randaugment is not None:
            image = self.randaugment(image, rng)
        return {IMAGE: np.ascontiguousarray(image), LABEL: np.int32(example[LABEL])}


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """The middle of an image, whose shorter side first becomes crop / `share`, in one resample.

    Attributes:
      crop: (h, w) of the output in pixels.
      share: crop to shorter side; timm's crop_pct.
      interpolation: as in `RandomResizedCrop`.
    """

    crop: tuple[int, int]
    share: float = 0.875
    interpolation: str = "bicubic"

    def __call__(self, example: Example) -> Example:
        """Returns the example with image u8 [crop 3]; everything else is as it was."""
        image = example[IMAGE]
        height, width = image.shape[:2]
        factor = max(self.crop[0] / height, self.crop[1] / width) / self.share
        h = min(height, max(1, round(self.crop[0] / factor)))
        w = min(width, max(1, round(self.crop[1] / factor)))
        window = (height - h) // 2, (width - w) // 2, h, w
        resized = _resized(_part(image, window), self.crop, self.interpolation)
        return example | {IMAGE: np.ascontiguousarray(resized)}


def _part(image: np.ndarray, window: Window) -> np.ndarray:
    top, left, height, width = window
    return image[top : top + height, left : left + width]


def _kernel(source: tuple[int, int], crop: tuple[int, int], interpolation: str) -> int:
    """OpenCV's kernel: the mean over areas where both sides shrink."""
    shrinks = source[0] > crop[0] and source[1] > crop[1]
    return cv2.INTER_AREA if shrinks else INTERPOLATIONS[interpolation]


def _resized(image: np.ndarray, crop: tuple[int, int], interpolation: str) -> np.ndarray:
    if image.shape[:2] == tuple(crop):
        return image
    kernel = _kernel(image.shape[:2], crop, interpolation)
    return cv2.resize(image, crop[::-1], interpolation=kernel)


def _turned(
    image: np.ndarray,
    window: Window,
    crop: tuple[int, int],
    angle: float,
    mirrored: bool,
    interpolation: str,
) -> np.ndarray:
    """The window, resized to `crop`, turned by `angle` degrees about its middle and mirrored."""
    top, left, height, width = window
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # From a pixel of the output, seen from its middle, to a pixel of the image.
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    linear = np.diag([width / crop[1], height / crop[0]]) @ turn
    middle = np.array([left + width / 2, top + height / 2])
    offset = middle - 0.5 - linear @ (np.array([crop[1], crop[0]]) / 2 - 0.5)
    return cv2.warpAffine(
        image,
        np.column_stack([linear, offset]),
        crop[::-1],
        flags=INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP,
        borderValue=IMAGE_PADDING.tolist(),
    )
