"""The 3x3 unit that fuses maps of several grids."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv import conv_init
from attnseg.layers.norm import BatchNorm
from attnseg.ops.activation import relu
from attnseg.ops.fusion_conv import fusion_conv


class FusionConv(nn.Module):
    """3x3 convolution without bias of maps enlarged to one grid and concatenated."""

    features: int
    align_corners: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, maps: Sequence[Array], size: tuple[int, int]) -> Array:
        """Maps [n a b c] of any grids and widths -> [n size[0] size[1] features]."""
        width = sum(x.shape[-1] for x in maps)
        kernel = self.param("kernel", conv_init, (3, 3, width, self.features), jnp.float32)
        *maps, kernel = nn.dtypes.promote_dtype(*maps, kernel, dtype=self.dtype)
        return fusion_conv(maps, kernel, size, align_corners=self.align_corners)


class FusionConvNorm(nn.Module):
    """`FusionConv`, BatchNorm and ReLU: `ConvNorm` of a concatenation."""

    features: int
    align_corners: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, maps: Sequence[Array], size: tuple[int, int], *, train: bool) -> Array:
        """Maps [n a b c] of any grids and widths -> [n size[0] size[1] features]."""
        x = FusionConv(self.features, self.align_corners, self.dtype, name="conv")(maps, size)
        return relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train))
