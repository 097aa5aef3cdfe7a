"""The edges of the classes of a label map, drawn on its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnseg.core.errors import check_shape
from attnseg.viz.overlay import colourise

PIXELS_A_LINE = 300  # of the image's shorter side for each pixel of a line's half width


def contours(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray | Sequence[Sequence[int]],
    width: int | None = None,
) -> np.ndarray:
    """Draws the edges between classes, each side in the colour of its class.

    Args:
      image: u8 [h w 3] RGB.
      labels: integers [h w], 0..k-1 or IGNORE.
      palette: RGB in 0..255, [k 3].
      width: pixels on each side of an edge; default 1 for each `PIXELS_A_LINE` of the shorter side.

    Returns:
      u8 [h w 3].

    Raises:
      UserError: sizes that differ, or a label without a colour.
    """
    import cv2

    image, labels = np.asarray(image), np.asarray(labels)
    check_shape(image, (*labels.shape, 3), "image under the label map")
    colours = colourise(labels, palette)
    if width is None:
        width = max(1, round(min(labels.shape) / PIXELS_A_LINE))
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # A pixel lies at an edge where another class is in reach.
    numbers = labels.astype(np.uint16)
    edge = cv2.dilate(numbers, window) != cv2.erode(numbers, window)
    return np.where(edge[..., None], colours, image)
