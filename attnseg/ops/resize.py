"""Bilinear resizing as sums of neighbours by whole factors, as two small matrix products else.

`jax.image.resize` smooths when it shrinks; this one never does, as torch and OpenCV: it samples
the four neighbours, with half-pixel centres or with corners aligned.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.platforms import apart, by_platform, is_plain
from attnseg.ops.precision import accumulator

# Factors of an enlargement by sums of neighbours (docs/performance.md).
_BLENDED = range(2, 17)
_VECTOR = 16  # channels; with fewer the product is faster from row to row


@functools.lru_cache(maxsize=256)
def bilinear_matrix(source: int, target: int, align_corners: bool = False) -> np.ndarray:
    """Interpolation matrix f32 [target source] along one axis, rows summing to one."""
    index = np.arange(target, dtype=np.float64)
    if align_corners:
        position = index * ((source - 1) / (target - 1)) if target > 1 else index * 0.0
    else:
        position = np.maximum((index + 0.5) * (source / target) - 0.5, 0.0)
    low = np.minimum(np.floor(position).astype(int), source - 1)
    high = np.minimum(low + 1, source - 1)
    weight = position - low
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1.0 - weight)
    np.add.at(matrix, (np.arange(target), high), weight)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)  # shared through the cache
    return matrix


def is_static(*sizes: int) -> bool:
    """Whether sizes are numbers; those of a program exported for any size are symbols."""
    return not any(jax.export.is_symbolic_dim(size) for size in sizes)


def bilinear_weights(source: int, target: int, align_corners: bool = False) -> Array | np.ndarray:
    """`bilinear_matrix`; between symbolic sizes it is computed when the program runs."""
    if is_static(source, target):
        return bilinear_matrix(source, target, align_corners)
    s, t = jnp.asarray(source, jnp.int32), jnp.asarray(target, jnp.int32)
    index = jnp.arange(target, dtype=jnp.int32)
    # The position as a fraction of integers: exact up to sizes of 2^15.
    if align_corners:
        top, bottom = index * (s - 1), jnp.maximum(t - 1, 1)
    else:
        top, bottom = jnp.maximum((2 * index + 1) * s - t, 0), 2 * t
    low = jax.lax.div(top, jnp.broadcast_to(bottom, top.shape))
    weight = ((top - low * bottom).astype(jnp.float32) / bottom.astype(jnp.float32))[:, None]
    low = jnp.minimum(low, s - 1)[:, None]
    column = jnp.arange(source, dtype=jnp.int32)[None]
    high = column == jnp.minimum(low + 1, s - 1)
    return jnp.where(column == low, 1.0 - weight, 0.0) + jnp.where(high, weight, 0.0)


def _interpolate(matrix: Array | np.ndarray, x: Array) -> Array:
    """[t s] x [n s c] -> [n t c] as one batched product, which leaves `x` where it lies."""
    batched = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return jnp.matmul(batched, x, precision="highest")


def _is_blended(source: int, target: int, align_corners: bool) -> bool:
    """Whether every pixel becomes the same number of others, each a blend of two neighbours."""
    if align_corners or is_plain() or not is_static(source, target) or target % source:
        return False
    return target // source in _BLENDED


@functools.lru_cache(maxsize=64)
def _taps(ratio: int) -> np.ndarray:
    """f32 [3 ratio]: the shares that the pixel before, itself and the one after have in the new."""
    offsets = (np.arange(ratio) + 0.5) / ratio - 0.5
    taps = [np.maximum(-offsets, 0.0), 1.0 - np.abs(offsets), np.maximum(offsets, 0.0)]
    return np.stack(taps).astype(np.float32)


def _with_edges(x: Array, axis: int) -> Array:
    """`x` with its first and its last pixel along the axis once more."""
    cut = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    return jnp.concatenate([cut(0, 1), x, cut(x.shape[axis] - 1, None)], axis)


def _enlarged(x: Array, rows: int, columns: int) -> Array:
    """[n h w c] -> [n rows*h columns*w c] without an index or a choice for each pixel.

    So XLA makes one pass of it, and of what follows, the sum of several enlarged maps for example.
    """
    n, h, w, c = x.shape
    y = x.astype(accumulator(x))
    if columns > 1:
        y = _with_edges(y, 2)
    if rows > 1:
        y = _with_edges(y, 1)
    if columns > 1:
        taps = _taps(columns)[:, :, None]
        y = sum(y[:, :, i : i + w, None] * taps[i] for i in range(3))
        y = y.reshape(n, y.shape[1], columns * w, c)
    if rows > 1:
        taps = _taps(rows)[:, :, None, None]
        y = sum(y[:, i : i + h, None] * taps[i] for i in range(3))
    return y.reshape(n, rows * h, columns * w, c).astype(x.dtype)


def _reduced(grad: Array, ratio: int, axis: int) -> Array:
    """The transpose of an enlargement along one axis."""
    shape = grad.shape
    size = shape[axis] // ratio
    grad = grad.reshape(*shape[:axis], size, ratio, *shape[axis + 1 :])
    before, itself, after = (
        sum(jnp.take(grad, i, axis + 1) * tap for i, tap in enumerate(taps) if tap)
        for taps in _taps(ratio).tolist()
    )
    # What a pixel lacks at the edge it has been itself.
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    of_next = jnp.concatenate([cut(before, 1, None), cut(after, size - 1, None)], axis)
    of_last = jnp.concatenate([cut(before, 0, 1), cut(after, 0, size - 1)], axis)
    return itself + of_next + of_last


def _columns_enlarged(x: Array, *, ratio: int, platform: str) -> Array:
    columns = functools.partial(_enlarged, rows=1, columns=ratio)
    # What follows is a product of rows, for which XLA for a CPU would find each number of a whole
    # row by divisions.
    return apart(columns, x) if platform == "cpu" else columns(x)


def _rows_reduced(grad: Array, *, ratio: int, platform: str) -> Array:
    rows = functools.partial(_reduced, ratio=ratio, axis=1)
    # XLA for a CPU would add up the rows anew for each column that it adds up.
    return apart(rows, grad) if platform == "cpu" else rows(grad)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _enlarge(x: Array, rows: int, columns: int) -> Array:
    if rows == 1:
        return by_platform(functools.partial(_columns_enlarged, ratio=columns), x)
    return _enlarged(x, rows, columns)


def _forward(x: Array, rows: int, columns: int) -> tuple[Array, None]:
    return _enlarge(x, rows, columns), None


def _backward(rows: int, columns: int, _, grad: Array) -> tuple[Array]:
    wide = grad.astype(accumulator(grad))
    if rows > 1:
        wide = by_platform(functools.partial(_rows_reduced, ratio=rows), wide)
    if columns > 1:
        wide = _reduced(wide, columns, 2)
    return (wide.astype(grad.dtype),)


_enlarge.defvjp(_forward, _backward)


def resize_bilinear(x: Array, size: tuple[int, int], *, align_corners: bool = False) -> Array:
    """Resizes [n h w c] to [n size[0] size[1] c], in the dtype of `x`.

    Sizes may be symbolic (`jax.export`).
    """
    n, h, w, c = x.shape
    rows, columns = size
    down = _is_blended(h, rows, align_corners) and c >= _VECTOR
    across = _is_blended(w, columns, align_corners)
    # Columns before rows: the second product is then wide, and the first one small.
    if w != columns and not across:
        matrix = bilinear_weights(w, columns, align_corners)
        x = _interpolate(matrix, x.reshape(n * h, w, c)).reshape(n, h, columns, c)
    if down or across:
        x = _enlarge(x, rows // h if down else 1, columns // w if across else 1)
    if h != rows and not down:
        x = _interpolate(bilinear_weights(h, rows, align_corners), x.reshape(n, h, columns * c))
    return x.reshape(n, rows, columns, c)
