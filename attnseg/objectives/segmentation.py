"""The training loss of segmentation, put together by name."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnseg.core.errors import check
from attnseg.core.types import Array
from attnseg.objectives import regions
from attnseg.objectives.enlarged import enlarged_loss
from attnseg.objectives.losses import NORMALISE, cross_entropy, focal, ohem
from attnseg.ops.resize import resize_bilinear

PIXEL_LOSSES = ("cross_entropy", "ohem", "focal")
REGION_LOSSES = {"dice": regions.dice, "lovasz": regions.lovasz_softmax}


@dataclasses.dataclass(frozen=True)
class SegmentationLoss:
    """A main loss and, added to it, Dice and Lovasz terms.

    The gradient of a step is that of ``loss_sum / weight``: the mean of the main loss, plus
    `dice_weight` times Dice, plus `lovasz_weight` times Lovasz-softmax. How OHEM and the regions'
    losses go with accumulation: `attnseg.objectives.losses`, `attnseg.objectives.regions`.

    Attributes:
      name: "cross_entropy", "ohem", "focal", "dice" or "lovasz".
      class_weights: k factors of the pixels' losses, or None.
      label_smoothing: share of the target spread over all classes; of cross_entropy and ohem.
      normalise: "valid" or "all" pixels; of the pixels' losses.
      ohem_threshold: share of the softmax up to which a pixel is hard.
      ohem_keep: least number of pixels kept for each example.
      focal_gamma: exponent of the focal loss.
      dice_weight, lovasz_weight: factors of what is added to the main loss; 0 adds nothing.

    Raises:
      UserError: unknown names, or settings that the loss has no use for.
    """

    name: str = "cross_entropy"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    normalise: str = "valid"
    ohem_threshold: float = 0.7
    ohem_keep: int = 100_000
    focal_gamma: float = 2.0
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0

    def __post_init__(self) -> None:
        names = (*PIXEL_LOSSES, *REGION_LOSSES)
        check(self.name in names, f'loss.name="{self.name}" is none of {", ".join(names)}.')
        check(
            self.normalise in NORMALISE,
            f'loss.normalise="{self.normalise}" is none of {", ".join(NORMALISE)}.',
        )
        check(
            not self.label_smoothing or self.name in ("cross_entropy", "ohem"),
            f'loss.name="{self.name}" has no label smoothing; set loss.label_smoothing to 0.',
        )
        region = self.name in REGION_LOSSES
        check(
            self.class_weights is None or not region,
            f'loss.name="{self.name}" weighs all classes alike; leave loss.class_weights out.',
        )
        check(
            self.normalise == "valid" or not region,
            f'loss.name="{self.name}" is a mean over classes; leave loss.normalise at "valid".',
        )
        check(
            not (region and getattr(self, f"{self.name}_weight")),
            f'loss.name="{self.name}" is that loss already; set loss.{self.name}_weight to 0.',
        )

    def __call__(self, logits: Array, labels: Array, mask: Array) -> tuple[jax.Array, jax.Array]:
        """Loss sum and the weight to divide it by, f32 [] each.

        Args:
          logits: [n h w k].
          labels: i32 [n h w]; 0..k-1, or IGNORE.
          mask: f32 [n], 0 for a row that only pads the batch.

        Raises:
          UserError: shapes that do not belong together.
        """
        total, weight = self._main(logits, labels, mask)
        for name, region in REGION_LOSSES.items():
            if factor := getattr(self, f"{name}_weight"):
                region_sum, pixels = region(logits, labels, mask)
                total += factor * rescaled(region_sum, pixels, weight)
        return total, weight

    def enlarged(self, logits: Array, labels: Array, mask: Array) -> tuple[jax.Array, jax.Array]:
        """The same of logits at another resolution, as if enlarged to that of the labels first.

        Losses that are sums over pixels are worked out in strips, without the enlarged map.
        """
        if self.name in ("cross_entropy", "focal") and not (self.dice_weight or self.lovasz_weight):
            gamma = self.focal_gamma if self.name == "focal" else 0.0
            given = (logits, labels, mask, self.class_weights)
            return enlarged_loss(*given, self.label_smoothing, gamma, self.normalise)
        return self(resize_bilinear(logits, labels.shape[1:]), labels, mask)

    def _main(self, logits, labels, mask) -> tuple[jax.Array, jax.Array]:
        if self.name in REGION_LOSSES:
            return REGION_LOSSES[self.name](logits, labels, mask)
        given = (logits, labels, mask, self.class_weights)
        if self.name == "focal":
            return focal(*given, self.focal_gamma, self.normalise)
        if self.name == "ohem":
            limits = (self.ohem_threshold, self.ohem_keep)
            return ohem(*given, self.label_smoothing, *limits, self.normalise)
        return cross_entropy(*given, self.label_smoothing, self.normalise)


def rescaled(total: jax.Array, weight: jax.Array, to: jax.Array) -> jax.Array:
    """The sum whose mean with weight `to` is that of `total` with `weight`; 0 of nothing.

    Lets a term be added to a loss that counts otherwise.
    """
    return total * (to / jnp.where(weight > 0, weight, 1.0))
