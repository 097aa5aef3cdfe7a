"""Attention of every pixel to every pixel, with one head and no scale of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def pixel_attention(query: Array, key: Array, value: Array) -> Array:
    """softmax(query key^T) value over all pixels; the l x l map is formed.

    Args:
      query, key: [n h w d].
      value: [n h w c].

    Returns:
      [n h w c] in the dtype of `value`; logits and softmax are float32.
    """
    n, h, w, c = value.shape
    query, key, value = (x.reshape(n, h * w, x.shape[-1]) for x in (query, key, value))
    logits = jnp.einsum("nld,nsd->nls", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("nls,nsc->nlc", weights, value).reshape(n, h, w, c)


def channel_attention(x: Array) -> Array:
    """softmax(-x^T x) x over channels of [n h w c]; logits and softmax are float32.

    DANet subtracts each logit from its row's largest; softmax knows no difference to the minus.
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h * w, c)
    logits = jnp.einsum("nlc,nld->ncd", x, x, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(-logits, axis=-1).astype(x.dtype)
    return jnp.einsum("ncd,nld->nlc", weights, x).reshape(n, h, w, c)


def linear_attention(query: Array, key: Array, value: Array) -> Array:
    """query (key^T value) / l over all l pixels: attention without softmax, in l d c products.

    Args:
      query, key: [n h w d].
      value: [n h w c].

    Returns:
      [n h w c] in the dtype of `value`; the sums over pixels are float32.
    """
    n, h, w, c = value.shape
    query, key, value = (x.reshape(n, h * w, x.shape[-1]) for x in (query, key, value))
    summed = jnp.einsum("nsd,nsc->ndc", key, value, preferred_element_type=jnp.float32)
    summed = (summed / (h * w)).astype(value.dtype)
    return jnp.einsum("nld,ndc->nlc", query, summed).reshape(n, h, w, c)
