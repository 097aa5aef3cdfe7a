"""Convolution, normalisation, activation: the unit that convolutional decoders are made of."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv import Conv, Linear, conv_init
from attnseg.layers.norm import BatchNorm
from attnseg.ops.activation import relu


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm and activation (None: no activation).

    A 1x1 convolution is kept as a matrix [c features].
    """

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    activation: Callable[[Array], Array] | None = relu
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h/stride w/stride features]."""
        if self.kernel == 1 and self.stride == 1:
            x = Linear(
                self.features,
                use_bias=False,
                kernel_init=conv_init,
                dtype=self.dtype,
                name="conv",
            )(x)
        else:
            x = Conv(
                self.features,
                self.kernel,
                self.stride,
                self.dilation,
                use_bias=False,
                dtype=self.dtype,
                name="conv",
            )(x)
        x = BatchNorm(dtype=self.dtype, name="norm")(x, train=train)
        return x if self.activation is None else self.activation(x)
