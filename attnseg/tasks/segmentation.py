"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.types import (
    AUX,
    BRANCHES,
    IGNORE,
    IMAGE,
    LABEL,
    LOGITS,
    MASK,
    Batch,
    Counts,
    Normalisation,
    Outputs,
)
from attnseg.objectives import (
    ABSENT_POLICY,
    Confusion,
    SegmentationLoss,
    boundary_summary,
    confusion,
    cross_entropy,
    rescaled,
)
from attnseg.ops.strips import over_strips
from attnseg.tasks.augment import normalise, photometric_distortion

ROWS = 128  # of the strips in which full-size logits exist
TINY = 1e-30  # least probability that a loss is taken of


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Loss and scores of a segmentation model.

    Attributes:
      classes: names of the k classes.
      normalisation: of the images.
      photometric: distort colours in training.
      objective: the training loss.
      aux_weight: factor of the loss of auxiliary logits.
    """

    classes: tuple[str, ...]
    normalisation: Normalisation
    photometric: bool = True
    objective: SegmentationLoss = SegmentationLoss()
    aux_weight: float = 0.4

    best: ClassVar[str] = "miou"  # the score that decides which checkpoint is best
    counting: ClassVar[str] = ABSENT_POLICY

    def augment(self, batch: Batch, key: Array) -> Batch:
        """Distorts the colours of a training batch."""
        if not self.photometric:
            return batch
        return batch | {IMAGE: photometric_distortion(key, batch[IMAGE])}

    def inputs(self, images: Array) -> Array:
        """[n h w 3] in 0..255 -> normalised f32 [n h w 3]."""
        return normalise(images, self.normalisation)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Sum of the training loss at label resolution, and the weight to divide it by."""
        labels, mask = batch[LABEL], batch[MASK]

        def objective(logits: Array) -> tuple[Array, Array]:
            return self.objective.enlarged(logits, labels, mask)

        total, weight = objective(outputs[LOGITS])
        for logits in outputs[BRANCHES]:
            total += rescaled(*objective(logits), weight)
        for logits in outputs[AUX]:
            # Auxiliary logits may have other hard pixels, and so another weight.
            total += self.aux_weight * rescaled(*objective(logits), weight)
        return total, weight

    def predict(self, outputs: Outputs, size: tuple[int, int]) -> Array:
        """Most likely class of each pixel, i32 [n size[0] size[1]]."""
        logits = outputs[LOGITS]
        nothing = jnp.zeros((len(logits), *size), jnp.int32)
        return over_strips(lambda x, _: ((), _classes(x)), logits, nothing, ROWS, IGNORE)[1]

    def counts(self, outputs: Outputs, batch: Batch) -> Counts:
        """Sums over a batch that `summarise` turns into scores.

        The loss is the cross-entropy whatever the training loss is: a sum over pixels, which does
        not change with the size of the batches.

        Returns:
          ``confusion`` i32 [n k k], of each image; ``loss_sum`` and ``weight``, f32 [];
          ``classes`` [n h w], the most likely ones, u8 where that is enough.
        """
        mask = batch[MASK]

        def count(logits: Array, labels: Array) -> tuple[Counts, Array]:
            k, classes = len(self.classes), _classes(logits)
            sums = {"confusion": confusion(labels, classes, k, mask, by_example=True)}
            return sums | self._loss_sums(logits, labels, mask), classes

        sums, classes = over_strips(count, outputs[LOGITS], batch[LABEL], ROWS, IGNORE)
        return sums | {"classes": classes.astype(self._class_type)}

    def score(self, values: Array, labels: Array, shares: bool) -> Counts:
        """`counts` of part of an image, with the confusion left to the host.

        Args:
          values: f32 [h w k], logits; or probabilities if `shares`.
          labels: i32 [h w].

        Returns:
          ``classes`` [h w], ``loss_sum`` and ``weight``.
        """
        logits = jnp.log(jnp.maximum(values, TINY)) if shares else values
        sums = self._loss_sums(logits[None], labels[None], None)
        return sums | {"classes": _classes(values).astype(self._class_type)}

    @property
    def _class_type(self):
        return jnp.uint8 if len(self.classes) <= 256 else jnp.int32

    def _loss_sums(self, logits: Array, labels: Array, mask: Array | None) -> Counts:
        weights, smoothing = self.objective.class_weights, self.objective.label_smoothing
        loss_sum, weight = cross_entropy(logits, labels, mask, weights, smoothing)
        return {"loss_sum": loss_sum, "weight": weight}

    def summarise(self, counts: list[Counts]) -> dict[str, float]:
        """Adds the batches' counts in int64 and float64 and divides once.

        Counts of the boundary, ``boundary`` i64 [3 k], are scored too where the batches have them.
        """
        k = len(self.classes)
        total = Confusion(k)
        for batch in counts:
            for matrix in np.reshape(batch["confusion"], (-1, k, k)):
                total.add(matrix)
        scores = total.summary(self.classes)
        if counts and "boundary" in counts[0]:
            boundary = np.sum([c["boundary"] for c in counts], axis=0, dtype=np.int64)
            scores |= boundary_summary(boundary, self.classes)
        loss = sum(float(c["loss_sum"]) for c in counts) / sum(float(c["weight"]) for c in counts)
        return {"loss": loss, **scores}


def _classes(values: Array) -> Array:
    return jnp.argmax(values, axis=-1).astype(jnp.int32)
