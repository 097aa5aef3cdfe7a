"""A convolution with a bias that the normalisation after it removes again."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv import Conv
from attnseg.layers.norm import BatchNorm
from attnseg.ops.activation import relu


class BiasedConvNorm(nn.Module):
    """`ConvNorm` of the checkpoints that keep a bias in front of BatchNorm.

    Batch statistics cancel that bias; only with running statistics does it count. It is handed to
    the norm as a shift, so that its gradient is exactly zero instead of rounding noise.
    """

    features: int
    kernel: int = 3
    activation: Callable[[Array], Array] | None = relu
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w features]."""
        x = Conv(self.features, self.kernel, use_bias=False, dtype=self.dtype, name="conv")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = BatchNorm(dtype=self.dtype, name="norm")(x, train=train, shift=bias)
        return x if self.activation is None else self.activation(x)
