"""Conv2Former's block: convolutional modulation and FFN (arXiv:2211.11943, section 3.2).

Modulation replaces the attention matrix: the output of a large depthwise convolution weighs the
values element by element, A * V with A = DWConv(GELU(W1 x)) and V = W2 x (eq. 3 to 5).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import lookup
from attnseg.layers.conv import DepthwiseConv, Linear, linear_init
from attnseg.layers.drop import DropPath
from attnseg.layers.norm import LayerNorm
from attnseg.layers.record import record, strength
from attnseg.ops.activation import gelu
from attnseg.ops.channels import scale_channels

EPSILON = 1e-6  # of every LayerNorm of the network
FUSIONS = {"hadamard": jnp.multiply, "sum": jnp.add}  # the paper's choice, and its ablation


class ConvModulation(nn.Module):
    """Values modulated by what a `kernel` x `kernel` neighbourhood holds (eq. 3 to 5)."""

    kernel: int
    fusion: str = "hadamard"
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c].

        Raises:
          UserError: unknown fusion.
        """
        c = x.shape[-1]
        fuse = lookup(FUSIONS, self.fusion, "fusion")
        context = gelu(Linear(c, dtype=self.dtype, name="context")(x))
        context = DepthwiseConv(
            (self.kernel, self.kernel), self.dtype, linear_init, name="depthwise"
        )(context)
        record(self, lambda: strength(context, "modulation"))
        value = Linear(c, dtype=self.dtype, name="value")(x)
        return Linear(c, dtype=self.dtype, name="out")(fuse(context, value))


class ConvFFN(nn.Module):
    """Feed-forward with a residual 3x3 depthwise convolution in its wide part."""

    ratio: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        c = x.shape[-1]
        x = gelu(Linear(c * self.ratio, dtype=self.dtype, name="expand")(x))
        x = DepthwiseConv((3, 3), self.dtype, linear_init, residual=True, name="depthwise")(x)
        return Linear(c, dtype=self.dtype, name="project")(x)


class Conv2FormerBlock(nn.Module):
    """Pre-norm residual block: modulation, then FFN, each with an optional layer scale."""

    kernel: int
    ratio: int
    drop_path: float = 0.0
    layer_scale: float = 1e-6  # first value of the factors; 0 leaves them out
    fusion: str = "hadamard"
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h w c]."""
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm1")(x)
        y = ConvModulation(self.kernel, self.fusion, self.dtype, name="modulation")(y)
        x = x + DropPath(self.drop_path, name="drop1")(self._scaled(y, "scale1"), train=train)
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm2")(x)
        y = ConvFFN(self.ratio, self.dtype, name="ffn")(y)
        return x + DropPath(self.drop_path, name="drop2")(self._scaled(y, "scale2"), train=train)

    def _scaled(self, y: Array, name: str) -> Array:
        if not self.layer_scale:
            return y
        init = nn.initializers.constant(self.layer_scale)
        return scale_channels(y, self.param(name, init, (y.shape[-1],), jnp.float32))
