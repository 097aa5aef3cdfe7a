"""Pyramid pooling (PSPNet, arXiv:1612.01105, section 3.2)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.fusion_conv import FusionConvNorm
from attnseg.ops.pooling import adaptive_average_pools


class PyramidPooling(nn.Module):
    """Averages over grids of p x p bins, projected, enlarged and fused with the map itself.

    The pooled maps have so few pixels that they are multiplied before they are enlarged
    (`attnseg.ops.fusion_conv`), which halves the cost of the bottleneck.
    """

    features: int
    pools: tuple[int, ...] = (1, 2, 3, 6)
    align_corners: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w features]."""
        pooled = [
            ConvNorm(self.features, dtype=self.dtype, name=f"pool{i + 1}")(y, train=train)
            for i, y in enumerate(adaptive_average_pools(x, self.pools))
        ]
        return FusionConvNorm(self.features, self.align_corners, self.dtype, name="bottleneck")(
            (x, *pooled), x.shape[1:3], train=train
        )
