"""Pyramid scene parsing head (PSPNet, arXiv:1612.01105)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.pyramid_pooling import PyramidPooling
from attnseg.models.heads.common import classify, stage_map


class PSPHead(nn.Module):
    """Pyramid pooling of one stage and a linear classifier."""

    num_classes: int
    width: int = 512
    pools: tuple[int, ...] = (1, 2, 3, 6)  # bins per side of each grid of averages
    stage: int = -1
    align_corners: bool = False  # in enlarging the averages
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the stage."""
        x = PyramidPooling(self.width, self.pools, self.align_corners, self.dtype, name="pyramid")(
            stage_map(features, self.stage), train=train
        )
        return classify(x, self.num_classes, self.dropout, train=train, dtype=self.dtype)
