"""Attention functions over grids. Tokens `l` exist only here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array


def dot_product_attention(query: Array, key: Array, value: Array, heads: int) -> Array:
    """Scaled dot-product attention of every pixel to every key.

    Args:
      query: [n h w c].
      key, value: [n hk wk c], usually a smaller grid (SegFormer, eq. 1 and 2).
      heads: number of heads m, a divisor of c.

    Returns:
      [n h w c] in the dtype of `query`; logits and softmax are float32.
    """
    _, h, w, c = query.shape
    scale = (c // heads) ** -0.5
    # Scaling the queries costs l x d products instead of l x l.
    query, key, value = (
        rearrange(x, "n h w (m d) -> n (h w) m d", m=heads) for x in (query * scale, key, value)
    )
    logits = jnp.einsum("nlmd,nsmd->nmls", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    out = jnp.einsum("nmls,nsmd->nlmd", weights, value)
    return rearrange(out, "n (h w) m d -> n h w (m d)", h=h, w=w)
