"""Exact counts on the device, their sums and the scores made of them on the host."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import check, check_shape
from attnseg.core.types import Array
from attnseg.objectives.losses import valid_mask

ABSENT_POLICY = (
    "Counted over all pixels of the split whose label is not 255, then divided. A class with "
    "neither a labelled nor a predicted pixel has no value and is left out of every mean; a class "
    "that is predicted but never labelled has IoU 0, F1 0 and precision 0, which count, and no "
    "accuracy (recall); a class that is labelled but never predicted has precision 0. Boundary "
    "IoU is counted in the same way over the pixels near boundaries."
)


def confusion(
    labels: Array,
    predictions: Array,
    num_classes: int,
    valid: Array | None = None,
    *,
    by_example: bool = False,
) -> jax.Array:
    """Counts pairs of label and prediction, exactly.

    Args:
      labels: i32 [n ...]; IGNORE is not counted, nor is any id outside 0..k-1.
      predictions: i32 [n ...], 0..k-1.
      num_classes: k.
      valid: f32 [n], 0 for a row that only pads the batch; None when no row does.
      by_example: count each of the n examples by itself.

    Returns:
      i32 [k k], or [n k k] by example; row = label, column = prediction.

    Raises:
      UserError: shapes that do not belong together.
    """
    check(
        labels.shape == predictions.shape,
        f"labels of shape {tuple(labels.shape)} do not fit predictions of shape "
        f"{tuple(predictions.shape)}.",
    )
    counted = valid_mask(labels, valid, num_classes) & (labels >= 0) & (labels < num_classes)
    matrices = len(labels) if by_example else 1
    square = num_classes * num_classes
    cells = matrices * square
    pairs = labels.astype(jnp.int32) * num_classes + predictions
    if by_example:
        first = jnp.arange(matrices, dtype=jnp.int32) * square
        pairs += first.reshape(-1, *[1] * (labels.ndim - 1))
    # A product of one-hot matrices takes 30 times as long on CPU at 11 classes, 500 at 150.
    histogram = jnp.bincount(jnp.where(counted, pairs, cells).ravel(), length=cells + 1)[:cells]
    shape = (num_classes, num_classes)
    return histogram.reshape((matrices, *shape) if by_example else shape)


def count_pairs(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """`confusion` on the host: integers of one shape -> i64 [k k]."""
    counted = (labels >= 0) & (labels < num_classes)
    pairs = labels[counted].astype(np.int64) * num_classes + predictions[counted]
    histogram = np.bincount(pairs, minlength=num_classes * num_classes)
    return histogram.reshape(num_classes, num_classes).astype(np.int64)


def accuracy_counts(
    logits: Array, labels: Array, mask: Array | None = None
) -> dict[str, jax.Array]:
    """Sums for top-1 and top-5 accuracy of a classifier.

    Args:
      logits: [n k]; equal logits are ranked by class index.
      labels: i32 [n].
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.

    Returns:
      i32 [] each: ``top1`` and ``top5`` (labels among the 1 and the 5 highest logits; with fewer
      than 5 classes every label is) and ``count`` (valid labels).
    """
    num_classes = logits.shape[-1]
    counted = valid_mask(labels, mask, num_classes)
    best = jax.lax.top_k(logits, min(5, num_classes))[1]
    hits = (best == labels[:, None]) & counted[:, None]
    return {
        "top1": jnp.sum(hits[:, 0], dtype=jnp.int32),
        "top5": jnp.sum(hits, dtype=jnp.int32),
        "count": jnp.sum(counted, dtype=jnp.int32),
    }


class Confusion:
    """A confusion matrix [k k] summed over batches in int64, and the scores it gives."""

    def __init__(self, num_classes: int):
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def add(self, matrix: Array) -> None:
        """Adds the counts of one batch, integers [k k].

        Raises:
          UserError: a matrix of another size.
        """
        check_shape(matrix, self.matrix.shape, "confusion matrix")
        self.matrix += np.asarray(matrix).astype(np.int64)

    def summary(self, class_names: Sequence[str]) -> dict[str, float]:
        """Scores in 0..1, in float64.

        Returns:
          ``miou``, ``macc``, ``fwiou`` (IoU weighted by label frequency), ``aacc`` (share of right
          pixels), then ``iou/NAME``, ``acc/NAME`` (recall), ``precision/NAME``, ``f1/NAME``; see
          `ABSENT_POLICY` for the names that are missing.

        Raises:
          UserError: no pixel was counted, or the names do not fit the matrix.
        """
        check(
            len(class_names) == len(self.matrix),
            f"{len(class_names)} class names for a confusion matrix of {len(self.matrix)} classes.",
        )
        check(self.matrix.sum() > 0, "no pixel was counted: every label is 255 or there is none.")
        scores = class_scores(self.matrix)
        frequency = self.matrix.sum(1) / self.matrix.sum()
        means = {
            "miou": float(np.nanmean(scores["iou"])),
            "macc": float(np.nanmean(scores["acc"])),
            "aacc": float(np.trace(self.matrix) / self.matrix.sum()),
            "fwiou": float(np.nansum(frequency * scores["iou"])),
        }
        return means | {
            f"{score}/{name}": float(value)
            for score, values in scores.items()
            for name, value in zip(class_names, values, strict=True)
            if not np.isnan(value)
        }


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, accuracy (recall), precision and F1 of each class of a confusion matrix [k k].

    f64 [k] each, NaN for a class without a value; see `ABSENT_POLICY`.
    """
    hits = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        return {
            "iou": hits / (labelled + predicted - hits),
            "acc": hits / labelled,
            # A class that is labelled and never predicted has no right prediction: 0, not NaN.
            "precision": np.where(
                labelled + predicted > 0, hits / np.maximum(predicted, 1), np.nan
            ),
            "f1": 2 * hits / (labelled + predicted),
        }
