"""Non-local block (arXiv:1711.07971, section 3) and the two attentions of DANet."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.layers.conv import KeyLinear, Linear, conv_init
from attnseg.layers.norm import BatchNorm
from attnseg.layers.record import PairRecord, record
from attnseg.ops.channels import scale_channels
from attnseg.ops.pixel_attention import channel_attention, linear_attention, pixel_attention

MODES = ("embedded_gaussian", "dot_product", "gaussian")
embed_init = nn.initializers.normal(0.01)


def _one_head(query: Array, key: Array) -> PairRecord:
    return PairRecord(query[:, :, :, None], key[:, :, :, None])


class NonLocal2d(nn.Module):
    """Residual attention of every pixel to every pixel.

    Attributes:
      reduction: width of the embeddings is c // reduction.
      use_scale: divide the logits of "embedded_gaussian" by the root of that width.
      mode: pairwise function of section 3.2. "embedded_gaussian" is softmax of embedded
        products, "gaussian" softmax of the products of the pixels themselves, and "dot_product"
        has no softmax, hence no l x l map either: (query key^T) value = query (key^T value).
    """

    reduction: int = 2
    use_scale: bool = True
    mode: str = "embedded_gaussian"
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.mode in MODES, f'nonlocal: mode "{self.mode}" is none of {", ".join(MODES)}.')

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w c].

        Raises:
          UserError: c is smaller than `reduction`.
        """
        c = x.shape[-1]
        width = c // self.reduction
        check(width >= 1, f"nonlocal: {c} channels cannot be reduced {self.reduction} times.")

        def embed(name: str) -> Array:
            return Linear(width, dtype=self.dtype, kernel_init=embed_init, name=name)(x)

        value = embed("value")
        if self.mode == "gaussian":
            y = x.astype(value.dtype)
            record(self, functools.partial(_one_head, y, y))
            y = pixel_attention(y, y, value)
        elif self.mode == "dot_product":
            y = linear_attention(embed("query"), embed("key"), value)
        else:
            query = embed("query") * (width**-0.5 if self.use_scale else 1.0)
            key = KeyLinear(width, dtype=self.dtype, name="key")(x)
            record(self, lambda: _one_head(query, key))
            y = pixel_attention(query, key, value)
        y = Linear(c, use_bias=False, kernel_init=conv_init, dtype=self.dtype, name="out")(y)
        # Zero at first: the block starts as the identity.
        norm = BatchNorm(scale_init=nn.initializers.zeros, dtype=self.dtype, name="norm")
        return x + norm(y, train=train)


class PositionAttention(nn.Module):
    """DANet's position attention (arXiv:1809.02983, section 3.2): x + gamma attention(x)."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        query = Linear(self.width, dtype=self.dtype, name="query")(x)
        key = KeyLinear(self.width, dtype=self.dtype, name="key")(x)
        value = Linear(x.shape[-1], dtype=self.dtype, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        record(self, lambda: _one_head(query, key))
        return x + scale_channels(pixel_attention(query, key, value), gamma[0])


class ChannelAttention(nn.Module):
    """DANet's channel attention (arXiv:1809.02983, section 3.3): x + gamma attention(x)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        return x + scale_channels(channel_attention(x), gamma[0])
