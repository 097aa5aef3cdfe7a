"""SegFormer's block: spatial-reduction attention and Mix-FFN (arXiv:2105.15203, section 3.1)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from attnseg.core.errors import check
from attnseg.layers.conv import DepthwiseConv, KeyLinear, Linear, PatchConv
from attnseg.layers.drop import DropPath
from attnseg.layers.norm import LayerNorm
from attnseg.layers.record import PairRecord, record
from attnseg.ops.activation import gelu
from attnseg.ops.attention import dot_product_attention


class EfficientAttention(nn.Module):
    """Attention to keys and values of a grid reduced `reduction` times per side (eq. 1, 2)."""

    heads: int
    reduction: int  # side of the patches merged into one key; 1 attends to every pixel
    epsilon: float = 1e-5
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        _, h, w, c = x.shape
        check(
            h >= self.reduction and w >= self.reduction,  # not min(): sizes may be symbolic
            f"the image is too small: a grid of {h}x{w} cannot be reduced {self.reduction} times; "
            "sides of at least 32 pixels are needed.",
        )
        query = Linear(c, dtype=self.dtype, name="query")(x)
        if self.reduction > 1:
            x = PatchConv(c, self.reduction, dtype=self.dtype, name="reduce")(x)
            x = LayerNorm(self.epsilon, dtype=self.dtype, name="reduce_norm")(x)
        key = KeyLinear(c, dtype=self.dtype, name="key")(x)
        value = Linear(c, dtype=self.dtype, name="value")(x)
        record(self, lambda: self._record(query, key))
        x = dot_product_attention(query, key, value, self.heads)
        return Linear(c, dtype=self.dtype, name="out")(x)

    def _record(self, query: Array, key: Array) -> PairRecord:
        split = functools.partial(rearrange, pattern="n h w (m d) -> n h w m d", m=self.heads)
        return PairRecord(split(query * (query.shape[-1] // self.heads) ** -0.5), split(key))


class MixFFN(nn.Module):
    """Feed-forward with a 3x3 depthwise convolution that tells positions apart (eq. 3).

    Without `mix` it is the plain feed-forward, for networks that are told positions otherwise.
    """

    ratio: int
    dtype: jnp.dtype | None = None
    mix: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        c = x.shape[-1]
        x = Linear(c * self.ratio, dtype=self.dtype, name="expand")(x)
        if self.mix:
            x = DepthwiseConv(dtype=self.dtype, name="depthwise")(x)
        x = gelu(x)
        return Linear(c, dtype=self.dtype, name="project")(x)


class SegFormerBlock(nn.Module):
    """Pre-norm residual block: attention, then Mix-FFN."""

    heads: int
    reduction: int
    ratio: int
    drop_path: float = 0.0
    block_epsilon: float = 1e-5
    reduction_epsilon: float = 1e-5
    dtype: jnp.dtype | None = None
    mix: bool = True  # of the FFN

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h w c]."""
        y = LayerNorm(self.block_epsilon, dtype=self.dtype, name="norm1")(x)
        y = EfficientAttention(
            self.heads, self.reduction, self.reduction_epsilon, self.dtype, name="attention"
        )(y)
        x = x + DropPath(self.drop_path, name="drop1")(y, train=train)
        y = LayerNorm(self.block_epsilon, dtype=self.dtype, name="norm2")(x)
        y = MixFFN(self.ratio, self.dtype, self.mix, name="ffn")(y)
        return x + DropPath(self.drop_path, name="drop2")(y, train=train)
