"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.types import (
    AUX,
    BRANCHES,
    LABEL,
    LOGITS,
    MASK,
    Batch,
    Counts,
    Normalisation,
    Outputs,
)
from attnseg.objectives import Confusion, confusion, cross_entropy
from attnseg.ops.resize import resize_bilinear
from attnseg.tasks.augment import normalise, photometric_distortion


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Loss and scores of a segmentation model.

    Attributes:
      classes: names of the k classes.
      normalisation: of the images.
      photometric: distort colours in training.
      class_weights: k factors of the loss, or None.
      label_smoothing: share of the target spread over all classes.
      aux_weight: factor of the loss of auxiliary logits.
    """

    classes: tuple[str, ...]
    normalisation: Normalisation
    photometric: bool = True
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    aux_weight: float = 0.4

    def inputs(self, images: Array, key: Array | None = None) -> Array:
        """u8 [n h w 3] -> normalised f32 [n h w 3], with colours distorted when given a key."""
        if key is not None and self.photometric:
            images = photometric_distortion(key, images)
        return normalise(images, self.normalisation)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Sum of the cross-entropy at label resolution, and the weight to divide it by."""
        total, weight = self._cross_entropy(outputs[LOGITS], batch)
        for logits in outputs[BRANCHES]:
            total += self._cross_entropy(logits, batch)[0]
        for logits in outputs[AUX]:
            total += self.aux_weight * self._cross_entropy(logits, batch)[0]
        return total, weight

    def _cross_entropy(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        labels = batch[LABEL]
        logits = resize_bilinear(logits, labels.shape[1:])
        return cross_entropy(logits, labels, batch[MASK], self.class_weights, self.label_smoothing)

    def predict(self, outputs: Outputs, size: tuple[int, int]) -> Array:
        """Most likely class of each pixel, i32 [n size[0] size[1]]."""
        return jnp.argmax(resize_bilinear(outputs[LOGITS], size), axis=-1).astype(jnp.int32)

    def counts(self, outputs: Outputs, batch: Batch) -> Counts:
        """Sums over a batch that `summarise` turns into scores."""
        labels = batch[LABEL]
        predictions = self.predict(outputs, labels.shape[1:])
        loss_sum, weight = self._cross_entropy(outputs[LOGITS], batch)
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
