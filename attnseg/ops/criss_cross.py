"""Attention of each pixel to its own row and column (arXiv:1811.11721, section 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def criss_cross_weights(query: Array, key: Array) -> tuple[Array, Array]:
    """Shares of the pixels on the criss-cross path of each pixel, without 1/sqrt(d).

    One softmax runs over the h pixels of the column and the w pixels of the row. The pixel itself
    lies on both; it is counted once, through its row. Nothing larger than [n h w max(h, w)] is
    formed: the joint softmax comes from the two parts by a shared maximum and denominator.

    Args:
      query, key: [n h w d].

    Returns:
      f32 [n h w h] for the column and [n h w w] for the row; together they sum to one.
    """
    h = query.shape[1]
    column = jnp.einsum("nhwd,ngwd->nhwg", query, key, preferred_element_type=jnp.float32)
    row = jnp.einsum("nhwd,nhvd->nhwv", query, key, preferred_element_type=jnp.float32)
    itself = jnp.eye(h, dtype=bool)[:, None, :]  # broadcasts over w
    column = jnp.where(itself, -jnp.inf, column)

    # Any shift leaves a softmax unchanged, so the maximum needs no gradient.
    top = jnp.maximum(column.max(-1, keepdims=True), row.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    column, row = jnp.exp(column - top), jnp.exp(row - top)
    total = column.sum(-1, keepdims=True) + row.sum(-1, keepdims=True)
    return column / total, row / total


def criss_cross_attention(query: Array, key: Array, value: Array) -> Array:
    """Attention along the criss-cross path of each pixel, see `criss_cross_weights`.

    Args:
      query, key: [n h w d].
      value: [n h w c].

    Returns:
      [n h w c] in the dtype of `value`; energies and softmax are float32.
    """
    column, row = (x.astype(value.dtype) for x in criss_cross_weights(query, key))
    return jnp.einsum("nhwg,ngwc->nhwc", column, value) + jnp.einsum("nhwv,nhvc->nhwc", row, value)
