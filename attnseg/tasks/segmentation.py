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
    confusion,
    cross_entropy,
    rescaled,
)
from attnseg.ops.resize import resize_bilinear
from attnseg.tasks.augment import normalise, photometric_distortion


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
            return self.objective(resize_bilinear(logits, labels.shape[1:]), labels, mask)

        total, weight = objective(outputs[LOGITS])
        for logits in outputs[BRANCHES]:
            total += rescaled(*objective(logits), weight)
        for logits in outputs[AUX]:
            # Auxiliary logits may have other hard pixels, and so another weight.
            total += self.aux_weight * rescaled(*objective(logits), weight)
        return total, weight

    def predict(self, outputs: Outputs, size: tuple[int, int]) -> Array:
        """Most likely class of each pixel, i32 [n size[0] size[1]]."""
        return jnp.argmax(resize_bilinear(outputs[LOGITS], size), axis=-1).astype(jnp.int32)

    def counts(self, outputs: Outputs, batch: Batch) -> Counts:
        """Sums over a batch that `summarise` turns into scores.

        The loss is the cross-entropy whatever the training loss is: a sum over pixels, which does
        not change with the size of the batches.
        """
        labels = batch[LABEL]
        predictions = self.predict(outputs, labels.shape[1:])
        logits = resize_bilinear(outputs[LOGITS], labels.shape[1:])
        loss_sum, weight = cross_entropy(
            logits,
            labels,
            batch[MASK],
            self.objective.class_weights,
            self.objective.label_smoothing,
        )
        return {
            "confusion": confusion(labels, predictions, len(self.classes), batch[MASK]),
            "loss_sum": loss_sum,
            "weight": weight,
        }

    def summarise(self, counts: list[Counts]) -> dict[str, float]:
        """Adds the batches' counts in int64 and float64 and divides once."""
        total = Confusion(len(self.classes))
        for batch in counts:
            total.add(np.asarray(batch["confusion"]))
        scores = total.summary(self.classes)
        loss = sum(float(c["loss_sum"]) for c in counts) / sum(float(c["weight"]) for c in counts)
        return {"loss": loss, **scores}
