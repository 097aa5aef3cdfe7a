"""Attention functions over grids. Tokens `l` exist only here.

Softmax attention keeps its inputs, its output and one number a query for the backward pass, which
recomputes the weights (the identity of FlashAttention, arXiv:2205.14135, section 3.1): the l x s
map, by far the largest array of a block, does not live from the forward to the backward pass, and
queries are worked through in blocks, so that a large one never exists whole.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from attnseg.ops.divisors import largest_divisor
from attnseg.ops.platforms import by_platform, is_plain
from attnseg.ops.precision import accumulator, einsum
from attnseg.ops.resize import is_static


class _Block(NamedTuple):
    """How much of one example's map is worked on at once, about: the largest of three."""

    logits: int  # of all heads
    of_a_head: int  # logits of one head
    queries: int  # fewer would leave products too thin


# By platform: on a CPU what the cache holds (512 queries of 256 keys), elsewhere what memory holds
# easily. The backward pass has five products where the forward pass has two: on a CPU thin ones
# cost it more than logits that outgrow the nearest cache.
_FORWARD = {"cpu": _Block(1 << 17, 0, 64), "default": _Block(1 << 24, 0, 64)}
_BACKWARD = {"cpu": _Block(1 << 18, 1 << 17, 256), "default": _FORWARD["default"]}
_WHOLE = 4  # blocks up to which the map is formed at once


def _blocks(x: Array, count: int) -> Array:
    """[n m l ...] -> [count n m l/count ...]."""
    split = x.reshape(*x.shape[:2], count, x.shape[2] // count, *x.shape[3:])
    return jnp.moveaxis(split, 2, 0)


def _joined(x: Array) -> Array:
    """The inverse of `_blocks`."""
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _count(query: Array, key: Array, block: _Block) -> int:
    """Parts that the queries are worked through in."""
    (heads, length), keys = query.shape[1:3], key.shape[2]
    if heads * length * keys <= _WHOLE * block.logits:
        return 1
    limit = max(block.logits // (heads * keys), block.of_a_head // keys, block.queries)
    return length // largest_divisor(length, limit)


def _attend(query: Array, key: Array, value: Array, *, platform: str) -> tuple[Array, Array]:
    """[n m l d], [n m s d] twice -> [n m l d] and the logarithm of each softmax's denominator."""

    def block(query: Array) -> tuple[Array, Array]:
        logits = einsum("nmld,nmsd->nmls", query, key)
        top = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        # Dividing the result costs l x d products in place of l x s.
        out = einsum("nmls,nmsd->nmld", weights.astype(value.dtype), value) / total
        return out.astype(value.dtype), (top + jnp.log(total))[..., 0]

    count = _count(query, key, _FORWARD[platform])
    if count == 1:
        return block(query)
    out, log_total = jax.lax.map(block, _blocks(query, count))
    return _joined(out), _joined(log_total)


def _attend_backward(
    query: Array, key: Array, value: Array, out: Array, log_total: Array, grad: Array, *, platform
) -> tuple[Array, Array, Array]:
    dtype = accumulator(query)

    def block(query, out, log_total, grad) -> tuple[Array, Array, Array]:
        logits = einsum("nmld,nmsd->nmls", query, key)
        weights = jnp.exp(logits - log_total[..., None])
        # A CPU reorders the left factor of a sum over queries first: d numbers each, not s.
        grad_value = einsum("nmld,nmls->nmds", grad, weights.astype(grad.dtype))
        grad_weights = einsum("nmld,nmsd->nmls", grad, value)
        # sum_s weights * grad_weights, without the l x s products.
        mean = jnp.sum(grad.astype(dtype) * out.astype(dtype), axis=-1, keepdims=True)
        grad_logits = (weights * (grad_weights - mean)).astype(query.dtype)
        grad_key = einsum("nmld,nmls->nmds", query, grad_logits)
        return einsum("nmls,nmsd->nmld", grad_logits, key), grad_key, grad_value

    parts = (query, out, log_total, grad)
    count = _count(query, key, _BACKWARD[platform])
    if count == 1:
        grad_query, *sums = block(*parts)
        return grad_query, *(jnp.swapaxes(x, 2, 3) for x in sums)

    def step(carry, inputs):
        grad_query, *sums = block(*inputs)
        return jax.tree_util.tree_map(jnp.add, carry, tuple(sums)), grad_query

    zero = tuple(jnp.zeros((*x.shape[:2], x.shape[3], x.shape[2]), dtype) for x in (key, value))
    sums, grad_query = jax.lax.scan(step, zero, tuple(_blocks(x, count) for x in parts))
    return _joined(grad_query), *(jnp.swapaxes(x, 2, 3) for x in sums)


def softmax_attention(query: Array, key: Array, value: Array) -> Array:
    """``softmax(query key^T) value``, not scaled.

    Args:
      query: [n m l d].
      key, value: [n m s d].

    Returns:
      [n m l d] in the dtype of `value`; logits and softmax are float32 at least. With a single
      key the gradients of `query` and `key` are exactly zero.
    """
    if is_plain() or not is_static(*query.shape, *key.shape):
        weights = jax.nn.softmax(einsum("nmld,nmsd->nmls", query, key), axis=-1)
        return jnp.einsum("nmls,nmsd->nmld", weights.astype(value.dtype), value)
    return _softmax_attention(query, key, value)


@jax.custom_vjp
def _softmax_attention(query: Array, key: Array, value: Array) -> Array:
    return by_platform(_attend, query, key, value)[0]


def _forward(query: Array, key: Array, value: Array):
    out, log_total = by_platform(_attend, query, key, value)
    return out, (query, key, value, out, log_total)


def _backward(residuals, grad: Array) -> tuple[Array, Array, Array]:
    query, key, value, _, _ = residuals
    if key.shape[2] == 1:
        # The weight is 1 whatever the logits; rounding would leave noise that Adam enlarges.
        grad_value = jnp.sum(grad, axis=2, keepdims=True, dtype=accumulator(grad))
        return jnp.zeros_like(query), jnp.zeros_like(key), grad_value.astype(value.dtype)
    grads = by_platform(_attend_backward, *residuals, grad)
    return tuple(g.astype(x.dtype) for g, x in zip(grads, residuals, strict=False))


_softmax_attention.defvjp(_forward, _backward)


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
        rearrange(x, "n h w (m d) -> n m (h w) d", m=heads) for x in (query * scale, key, value)
    )
    out = softmax_attention(query, key, value)
    return rearrange(out, "n m (h w) d -> n h w (m d)", h=h, w=w)
