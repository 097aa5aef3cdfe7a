"""Depthwise separable convolution with BatchNorm after both parts (DeepLabV3+, section 3.1)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv import conv_init
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.norm import BatchNorm
from attnseg.ops.activation import relu
from attnseg.ops.dilated_depthwise import dilated_depthwise_conv


class DilatedDepthwise(nn.Module):
    """3x3 depthwise convolution without bias, with holes."""

    dilation: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        # BatchNorm follows: the initialiser's scale (torch's fan-out counts all channels) is free.
        kernel = self.param("kernel", conv_init, (3, 3, 1, x.shape[-1]), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return dilated_depthwise_conv(x, kernel, self.dilation)


class DepthwiseNorm(nn.Module):
    """Depthwise convolution, BatchNorm and ReLU."""

    dilation: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w c]."""
        x = DilatedDepthwise(self.dilation, self.dtype, name="conv")(x)
        return relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train))


class SeparableConvNorm(nn.Module):
    """`DepthwiseNorm` over 3x3 pixels, then a 1x1 `ConvNorm` over channels."""

    features: int
    dilation: int = 1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w features]."""
        x = DepthwiseNorm(self.dilation, self.dtype, name="depthwise")(x, train=train)
        return ConvNorm(self.features, dtype=self.dtype, name="pointwise")(x, train=train)
