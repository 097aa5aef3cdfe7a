"""Image classification: a class for each image."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import (
    IMAGE,
    LABEL,
    LABEL_PROBS,
    LOGITS,
    MASK,
    Batch,
    Counts,
    Normalisation,
    Outputs,
)
from attnseg.objectives import (
    Confusion,
    accuracy_counts,
    confusion,
    cross_entropy,
    soft_cross_entropy,
)
from attnseg.tasks.augment import normalise
from attnseg.tasks.colour_jitter import colour_jitter
from attnseg.tasks.erasing import random_erasing
from attnseg.tasks.mixing import draw_mix, mix_images, mix_targets, smoothed_one_hot

MOST_BY_CLASS = 100  # classes up to which each has scores of its own


@dataclasses.dataclass(frozen=True)
class Classification:
    """Loss and scores of a classifier.

    Attributes:
      classes: names of the k classes.
      normalisation: of the images.
      label_smoothing: share of the target spread over all classes.
      jitter: greatest change of brightness, contrast and saturation in training, 0..1.
      erasing: chance that a training image loses a box.
      mixup, cutmix: parameters of the Beta distribution of the shares; 0 leaves the kind out.
      switch: chance of CutMix where both are wanted.
    """

    classes: tuple[str, ...]
    normalisation: Normalisation
    label_smoothing: float = 0.0
    jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5

    best: ClassVar[str] = "top1"  # the score that decides which checkpoint is best
    counting: ClassVar[str] = (
        "Counted over all images of the split, then divided. A class without an image has no "
        "accuracy and is left out of the mean over classes."
    )

    def augment(self, batch: Batch, key: Array) -> Batch:
        """Changes colours, erases boxes and mixes; a mixed batch has ``label_probs`` f32 [n k]."""
        jitter_key, erase_key, mix_key = jax.random.split(key, 3)
        images = batch[IMAGE].astype(jnp.float32)
        if self.jitter:
            images = colour_jitter(jitter_key, images, self.jitter)
        if self.erasing:
            images = random_erasing(erase_key, images, self.erasing, self.normalisation)
        if not self.mixup and not self.cutmix:
            return batch | {IMAGE: images}
        mix = draw_mix(mix_key, images.shape[1:3], self.mixup, self.cutmix, self.switch)
        targets = smoothed_one_hot(batch[LABEL], len(self.classes), self.label_smoothing)
        return batch | {IMAGE: mix_images(images, mix), LABEL_PROBS: mix_targets(targets, mix)}

    def inputs(self, images: Array) -> Array:
        """[n h w 3] in 0..255 -> normalised f32 [n h w 3]."""
        return normalise(images, self.normalisation)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Sum of the cross-entropy over images, and the weight to divide it by."""
        if LABEL_PROBS in batch:
            return soft_cross_entropy(outputs[LOGITS], batch[LABEL_PROBS], batch[MASK])
        smoothing = self.label_smoothing
        return cross_entropy(outputs[LOGITS], batch[LABEL], batch[MASK], label_smoothing=smoothing)

    def predict(self, outputs: Outputs, size: tuple[int, ...] = ()) -> Array:
        """Most likely class of each image, i32 [n]; `size` is that of a label, which has none."""
        check(not size, f"labels of classification have no size, these are {size}.")
        return jnp.argmax(outputs[LOGITS], axis=-1).astype(jnp.int32)

    def counts(self, outputs: Outputs, batch: Batch) -> Counts:
        """Sums over a batch that `summarise` turns into scores."""
        logits, labels, mask = outputs[LOGITS], batch[LABEL], batch[MASK]
        loss_sum, weight = cross_entropy(logits, labels, mask, label_smoothing=self.label_smoothing)
        counts = accuracy_counts(logits, labels, mask) | {"loss_sum": loss_sum, "weight": weight}
        k = len(self.classes)
        if k <= MOST_BY_CLASS:
            counts["confusion"] = confusion(labels, self.predict(outputs), k, mask)
        return counts

    def summarise(self, counts: list[Counts]) -> dict[str, float]:
        """Adds the batches' counts in int64 and float64 and divides once.

        Returns:
          ``loss``, ``top1``, ``top5``; with at most `MOST_BY_CLASS` classes also ``macc`` (mean
          accuracy over classes), ``acc/NAME`` and ``f1/NAME``.

        Raises:
          UserError: no image was counted.
        """
        sums = ("loss_sum", "weight", "top1", "top5", "count")
        total = {name: sum(float(c[name]) for c in counts) for name in sums}
        check(total["count"] > 0, "no image was counted: the split is empty or has no labels.")
        scores = {
            "loss": total["loss_sum"] / total["weight"],
            "top1": total["top1"] / total["count"],
            "top5": total["top5"] / total["count"],
        }
        if "confusion" not in counts[0]:
            return scores
        matrix = Confusion(len(self.classes))
        for batch in counts:
            matrix.add(np.asarray(batch["confusion"]))
        by_class = matrix.summary(self.classes)
        kept = {k: v for k, v in by_class.items() if k == "macc" or k.startswith(("acc/", "f1/"))}
        return scores | kept
