"""Boundary IoU: IoU of what lies near the edges of the masks (arXiv:2103.16562), on the host.

The inner boundary of a class are its pixels with a pixel of another class, or the outside of the
image, within a distance d in rows and in columns. That is the paper's code, a mask minus itself
eroded d times by 3x3, for all classes at once.

Ignored pixels belong to no class in either map: where the label is ignored, so is the prediction.
Their edges are edges of both maps alike, and they are never counted themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from attnseg.core.errors import check
from attnseg.core.types import IGNORE

SHARE = 0.02  # of the diagonal, the paper's choice


def boundary_distance(size: tuple[int, int], share: float = SHARE) -> int:
    """The distance d in pixels for an image of `size` (h, w), 1 or more."""
    return max(1, round(share * math.hypot(*size)))


def inner_boundary(labels: np.ndarray, distance: int) -> np.ndarray:
    """Where the inner boundaries of all classes are.

    Args:
      labels: u8 [h w].
      distance: d in pixels, 1 or more.

    Returns:
      bool [h w].
    """
    around = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(labels, around) != cv2.erode(labels, around)).astype(np.uint8)
    edge[[0, -1]] = 1
    edge[:, [0, -1]] = 1
    # The nearest other pixel is one step beyond the nearest edge pixel, in king's moves.
    for axis in (0, 1):
        line = np.ones((2 * distance - 1, 1) if axis == 0 else (1, 2 * distance - 1), np.uint8)
        edge = cv2.dilate(edge, line)
    return edge.astype(bool)


def boundary_counts(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, share: float = SHARE
) -> np.ndarray:
    """Counts the boundary pixels of an image.

    Args:
      labels: integers [h w]; whatever lies outside 0..k-1 is ignored.
      predictions: integers [h w], 0..k-1.
      num_classes: k.
      share: of the diagonal.

    Returns:
      i64 [3 k]: pixels of the label's boundary, of the prediction's, and of both with one class.

    Raises:
      UserError: maps of different sizes.
    """
    check(
        labels.shape == predictions.shape,
        f"labels of shape {labels.shape} do not fit predictions of shape {predictions.shape}.",
    )
    counted = (labels >= 0) & (labels < num_classes)
    truth = np.where(counted, labels, IGNORE).astype(np.uint8)
    guess = np.where(counted, predictions, IGNORE).astype(np.uint8)
    distance = boundary_distance(labels.shape, share)
    of_truth = inner_boundary(truth, distance) & counted
    of_guess = inner_boundary(guess, distance) & counted
    both = of_truth & of_guess & (truth == guess)
    of_class = [np.bincount(truth[of_truth], minlength=num_classes)]
    of_class += [np.bincount(guess[of_guess], minlength=num_classes)]
    of_class += [np.bincount(truth[both], minlength=num_classes)]
    return np.stack(of_class).astype(np.int64)


def boundary_summary(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Scores in 0..1 from the sum of `boundary_counts` over a split.

    Returns:
      ``mbiou``, the mean over the classes with a boundary pixel in label or prediction, and
      ``biou/NAME`` of those.
    """
    of_truth, of_guess, both = counts
    union = of_truth + of_guess - both
    scores = {n: float(b / u) for n, b, u in zip(class_names, both, union, strict=True) if u}
    if not scores:
        return {}
    mean = sum(scores.values()) / len(scores)
    return {"mbiou": mean, **{f"biou/{name}": value for name, value in scores.items()}}
