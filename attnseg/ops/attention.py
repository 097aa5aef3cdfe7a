"""Attention functions over grids. Tokens `l` exist only here.

Softmax attention keeps its inputs alone for the backward pass, which recomputes the weights (as
FlashAttention, arXiv:2205.14135, section 3.1): the l x s map, by far the largest array of a block,
does not live from the forward to the backward pass, and queries are worked through in blocks, so
that a large one never exists whole.
"""

from __future__ import annotations

import functools
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
    of_a_head: int = 0  # logits of one head
    queries: int = 64  # fewer would leave products too thin


# By platform: on a CPU what the cache holds, elsewhere what memory holds easily. The backward pass
# has five products where the forward pass has two: on a CPU thin ones cost it more than logits that
# outgrow the nearest cache.
_FORWARD = {"cpu": _Block(1 << 17, queries=128), "default": _Block(1 << 24)}
_BACKWARD = {"cpu": _Block(1 << 18, 1 << 17, 256), "default": _FORWARD["default"]}
_WHOLE = 4  # blocks up to which the map is formed at once

# Of a normalised softmax between two products XLA for a CPU makes one operation of YNNPACK, which
# never has the map whole if that is no larger than this. With more keys, or more maps (examples
# times heads), it was slower than blocks (docs/performance.md).
_STREAMED_LOGITS, _STREAMED_KEYS, _STREAMED_MAPS = 1 << 23, 512, 12


def _blocks(x: Array, count: int) -> Array:
    """[b l ...] -> [count b l/count ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], count, -1, *x.shape[2:]), 1, 0)


def _joined(x: Array) -> Array:
    """The inverse of `_blocks`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _count(length: int, keys: int, heads: int, block: _Block) -> int:
    """Parts that the queries are worked through in."""
    if heads * length * keys <= _WHOLE * block.logits:
        return 1
    limit = max(block.logits // (heads * keys), block.of_a_head // keys, block.queries)
    return length // largest_divisor(length, limit)


def _attend(query: Array, key: Array, value: Array, *, heads: int, platform: str) -> Array:
    """[b l d], [b s d] twice -> [b l d]: b is examples times heads."""
    maps, length, _ = query.shape
    keys = key.shape[1]
    streamed = platform == "cpu" and keys <= _STREAMED_KEYS and maps <= _STREAMED_MAPS

    def block(query: Array) -> Array:
        logits = einsum("bld,bsd->bls", query, key)
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        if streamed:
            return jnp.einsum("bls,bsd->bld", (weights / total).astype(value.dtype), value)
        # Dividing the result costs l x d products in place of l x s.
        out = einsum("bls,bsd->bld", weights.astype(value.dtype), value) / total
        return out.astype(value.dtype)

    if streamed:
        count = length // largest_divisor(length, _STREAMED_LOGITS // (maps * keys))
    else:
        count = _count(length, keys, heads, _FORWARD[platform])
    if count == 1:
        return block(query)
    return _joined(jax.lax.map(block, _blocks(query, count)))


def _attend_backward(
    query: Array, key: Array, value: Array, grad: Array, *, heads: int, platform: str
) -> tuple[Array, Array, Array]:
    dtype = accumulator(query)

    def block(query: Array, grad: Array) -> tuple[Array, Array, Array]:
        weights = jax.nn.softmax(einsum("bld,bsd->bls", query, key), axis=-1)
        # A CPU reorders the left factor of a sum over queries first: d numbers each, not s.
        grad_value = einsum("bld,bls->bds", grad, weights.astype(grad.dtype))
        grad_weights = einsum("bld,bsd->bls", grad, value)
        mean = jnp.sum(weights * grad_weights, axis=-1, keepdims=True)
        grad_logits = (weights * (grad_weights - mean)).astype(query.dtype)
        grad_key = einsum("bld,bls->bds", query, grad_logits)
        return einsum("bls,bsd->bld", grad_logits, key), grad_key, grad_value

    count = _count(query.shape[1], key.shape[1], heads, _BACKWARD[platform])
    if count == 1:
        grad_query, *sums = block(query, grad)
        return grad_query, *(jnp.swapaxes(x, 1, 2) for x in sums)

    def step(carry, inputs):
        grad_query, *sums = block(*inputs)
        return jax.tree_util.tree_map(jnp.add, carry, tuple(sums)), grad_query

    zero = tuple(jnp.zeros((x.shape[0], x.shape[2], x.shape[1]), dtype) for x in (key, value))
    sums, grad_query = jax.lax.scan(step, zero, (_blocks(query, count), _blocks(grad, count)))
    return _joined(grad_query), *(jnp.swapaxes(x, 1, 2) for x in sums)


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
    heads = query.shape[1]
    # With an axis of their own, of length one above all, XLA would not see one operation.
    flat = (rearrange(x, "n m l d -> (n m) l d") for x in (query, key, value))
    return rearrange(_softmax_attention(heads, *flat), "(n m) l d -> n m l d", m=heads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax_attention(heads: int, query: Array, key: Array, value: Array) -> Array:
    return by_platform(functools.partial(_attend, heads=heads), query, key, value)


def _forward(heads: int, query: Array, key: Array, value: Array):
    return _softmax_attention(heads, query, key, value), (query, key, value)


def _backward(heads: int, residuals, grad: Array) -> tuple[Array, Array, Array]:
    query, key, value = residuals
    if key.shape[1] == 1:
        # The weight is 1 whatever the logits; rounding would leave noise that Adam enlarges.
        grad_value = jnp.sum(grad, axis=1, keepdims=True, dtype=accumulator(grad))
        return jnp.zeros_like(query), jnp.zeros_like(key), grad_value.astype(value.dtype)
    grads = by_platform(functools.partial(_attend_backward, heads=heads), *residuals, grad)
    return tuple(g.astype(x.dtype) for g, x in zip(grads, residuals, strict=True))


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
