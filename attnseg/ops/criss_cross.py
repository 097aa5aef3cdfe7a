"""Attention of each pixel to its own row and column (arXiv:1811.11721, section 3.2).

The two halves are attention along lines: [h w] pixels are h rows of w, and w columns of h. Each
half is worked out for some lines at a time, with a maximum and a sum of its own, and the halves
are joined as if one softmax had run over both. The backward pass recomputes the weights from the
joint denominator, so nothing larger than the maps themselves is kept.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.divisors import largest_divisor
from attnseg.ops.platforms import by_platform, is_plain
from attnseg.ops.precision import accumulator, einsum
from attnseg.ops.resize import is_static

# Energies formed at once, by platform: what a CPU's cache holds; what a GPU's memory does easily.
_ENERGIES = {"cpu": 1 << 18, "default": 1 << 25}
_LOWEST = -1e30  # the maximum of a line without a pixel, above -inf so that differences exist


def _diagonal(length: int) -> Array:
    """[length length], true on the diagonal; onnxruntime lacks what `jnp.eye` becomes."""
    index = jnp.arange(length)
    return index[:, None] == index


def _energies(query: Array, key: Array, itself: bool) -> Array:
    energies = einsum("bld,bsd->bls", query, key)
    if itself:
        return energies
    return jnp.where(_diagonal(energies.shape[-1]), -jnp.inf, energies)


def _attend(query: Array, key: Array, value: Array, *, itself: bool):
    """Lines [b l d], [b l d], [b l c] -> sum of weighted values, maximum and sum of weights."""
    energies = _energies(query, key, itself)
    top = jnp.maximum(jnp.max(energies, axis=-1, keepdims=True), _LOWEST)
    weights = jnp.exp(energies - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return einsum("bls,bsc->blc", weights.astype(value.dtype), value), top, total


def _attend_backward(query, key, value, grad, mean, log_total, *, itself: bool):
    weights = jnp.exp(_energies(query, key, itself) - log_total)
    grad_value = einsum("bls,blc->bsc", weights.astype(grad.dtype), grad)
    grad_energies = weights * (einsum("blc,bsc->bls", grad, value) - mean)
    grad_energies = grad_energies.astype(query.dtype)
    grad_query = einsum("bls,bsd->bld", grad_energies, key)
    return grad_query, einsum("bls,bld->bsd", grad_energies, query), grad_value


def _in_chunks(function, arrays: tuple[Array, ...], platform: str):
    """``function(*arrays)`` for some of the lines [b l ...] at a time."""
    lines, length = arrays[0].shape[:2]
    size = largest_divisor(lines, _ENERGIES[platform] // length**2)
    if size == lines:
        return function(*arrays)
    chunks = tuple(x.reshape(lines // size, size, *x.shape[1:]) for x in arrays)
    out = jax.lax.map(lambda parts: function(*parts), chunks)
    return jax.tree_util.tree_map(lambda x: x.reshape(lines, *x.shape[2:]), out)


def _on_lines(function, maps: tuple[Array, ...], columns: bool, platform: str):
    """Applies `function` to the rows, or the columns, of maps [n h w ...]."""
    if columns:
        maps = tuple(jnp.swapaxes(x, 1, 2) for x in maps)
    grid = maps[0].shape[:3]
    lines = tuple(x.reshape(grid[0] * grid[1], *x.shape[2:]) for x in maps)
    # A pixel lies on both of its lines and is counted once, through its row.
    out = _in_chunks(functools.partial(function, itself=not columns), lines, platform)
    out = tuple(x.reshape(*grid, *x.shape[2:]) for x in out)
    return tuple(jnp.swapaxes(x, 1, 2) for x in out) if columns else out


def _run(query: Array, key: Array, value: Array, *, platform: str) -> tuple[Array, Array]:
    maps = (query, key, value)
    (a, top_a, total_a), (b, top_b, total_b) = (
        _on_lines(_attend, maps, columns, platform) for columns in (True, False)
    )
    top = jnp.maximum(top_a, top_b)
    scale_a, scale_b = jnp.exp(top_a - top), jnp.exp(top_b - top)
    total = scale_a * total_a + scale_b * total_b
    out = (scale_a * a + scale_b * b) / total
    return out.astype(value.dtype), top + jnp.log(total)


def _run_backward(query, key, value, out, log_total, grad, *, platform: str):
    mean = jnp.sum(grad * out, axis=-1, keepdims=True, dtype=accumulator(grad))
    maps = (query, key, value, grad, mean, log_total)
    halves = (_on_lines(_attend_backward, maps, columns, platform) for columns in (True, False))
    return tuple(a + b for a, b in zip(*halves, strict=True))


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
    itself = _diagonal(h)[:, None, :]  # broadcasts over w
    column = jnp.where(itself, -jnp.inf, column)

    # Any shift leaves a softmax unchanged, so the maximum needs no gradient.
    top = jnp.maximum(column.max(-1, keepdims=True), row.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    column, row = jnp.exp(column - top), jnp.exp(row - top)
    total = column.sum(-1, keepdims=True) + row.sum(-1, keepdims=True)
    return column / total, row / total


def criss_cross_attention(query: Array, key: Array, value: Array) -> Array:
    """Attention along the criss-cross path of each pixel, without 1/sqrt(d).

    One softmax runs over the h pixels of the column and the w pixels of the row. The pixel itself
    lies on both; it is counted once. Nothing larger than [n h w max(h, w)] is formed, and of large
    maps only a part of it at a time; kept for the backward pass are the arguments, the result and
    one number a pixel.

    Args:
      query, key: [n h w d].
      value: [n h w c].

    Returns:
      [n h w c] in the dtype of `value`; energies and softmax are float32 at least.
    """
    if is_plain() or not is_static(*query.shape):
        column, row = (x.astype(value.dtype) for x in criss_cross_weights(query, key))
        columns = jnp.einsum("nhwg,ngwc->nhwc", column, value)
        return columns + jnp.einsum("nhwv,nhvc->nhwc", row, value)
    return _criss_cross(query, key, value)


@jax.custom_vjp
def _criss_cross(query: Array, key: Array, value: Array) -> Array:
    return by_platform(_run, query, key, value)[0]


def _forward(query: Array, key: Array, value: Array):
    out, log_total = by_platform(_run, query, key, value)
    return out, (query, key, value, out, log_total)


def _backward(residuals, grad: Array) -> tuple[Array, Array, Array]:
    query, key, value = residuals[:3]
    if query.shape[1] == query.shape[2] == 1:
        # The only weight is 1 whatever the energy; rounding would leave noise.
        return jnp.zeros_like(query), jnp.zeros_like(key), grad.astype(value.dtype)
    grads = by_platform(_run_backward, *residuals, grad)
    return tuple(g.astype(x.dtype) for g, x in zip(grads, residuals, strict=False))


_criss_cross.defvjp(_forward, _backward)
