"""Unified perceptual parsing head (UPerNet, arXiv:1807.10221, section 3.1)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.fusion_conv import FusionConvNorm
from attnseg.layers.pyramid_pooling import PyramidPooling
from attnseg.models.heads.common import classify
from attnseg.ops.resize import resize_bilinear


class UPerNetHead(nn.Module):
    """Feature pyramid with pyramid pooling at its top; all its maps are fused at the finest grid.

    The fusion multiplies the coarser maps on their own grids (`attnseg.ops.fusion_conv`).
    """

    num_classes: int
    width: int = 512
    pools: tuple[int, ...] = (1, 2, 3, 6)  # bins per side of each grid of averages
    align_corners: bool = False  # in every enlargement
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the finest stage."""
        *finer, top = features.maps
        y = PyramidPooling(self.width, self.pools, self.align_corners, self.dtype, name="pyramid")(
            top, train=train
        )
        maps = [y]
        for i, x in reversed(list(enumerate(finer, start=1))):
            x = ConvNorm(self.width, dtype=self.dtype, name=f"lateral{i}")(x, train=train)
            y = x + resize_bilinear(y, x.shape[1:3], align_corners=self.align_corners)
            maps.insert(
                0, ConvNorm(self.width, 3, dtype=self.dtype, name=f"fpn{i}")(y, train=train)
            )
        x = FusionConvNorm(self.width, self.align_corners, self.dtype, name="fuse")(
            maps, maps[0].shape[1:3], train=train
        )
        return classify(x, self.num_classes, self.dropout, train=train, dtype=self.dtype)
