"""Bilinear resizing as two small matrix products, or as sums of neighbours where that is less.

`jax.image.resize` smooths when it shrinks; this one never does, as torch and OpenCV: it samples
the four neighbours, with half-pixel centres or with corners aligned.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.precision import accumulator

# Enlargements along a row of pixels for which sums of neighbours are faster than a matrix product
# (docs/performance.md). From row to row the product is wide, and they are not.
_BLENDED = range(4, 17)


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


def _enlarge(matrix: Array | np.ndarray, x: Array) -> Array:
    """[t s] x [n s c] -> [n t c] as one batched product, which leaves `x` where it lies."""
    batched = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return jnp.matmul(batched, x, precision="highest")


def _is_blended(source: int, target: int) -> bool:
    return target % source == 0 and target // source in _BLENDED


def _blend_columns(x: Array, ratio: int) -> Array:
    """[n h w c] -> [n h ratio*w c] with half-pixel centres: every pixel blends two neighbours."""
    n, h, w, c = x.shape
    middle = x.astype(accumulator(x))
    before = jnp.concatenate([middle[:, :, :1], middle[:, :, :-1]], axis=2)
    after = jnp.concatenate([middle[:, :, 1:], middle[:, :, -1:]], axis=2)
    offsets = (np.arange(ratio) + 0.5) / ratio - 0.5
    parts = [
        middle * (1.0 - abs(offset)) + (after if offset > 0 else before) * abs(offset)
        for offset in offsets.tolist()
    ]
    return jnp.stack(parts, axis=3).astype(x.dtype).reshape(n, h, ratio * w, c)


def resize_bilinear(x: Array, size: tuple[int, int], *, align_corners: bool = False) -> Array:
    """Resizes [n h w c] to [n size[0] size[1] c], in the dtype of `x`.

    Sizes may be symbolic (`jax.export`).
    """
    n, h, w, c = x.shape
    rows, columns = size
    # Columns before rows: the second product is then wide, and the first one small.
    if not align_corners and is_static(w, columns) and _is_blended(w, columns):
        x = _blend_columns(x, columns // w)
    elif w != columns:
        x = _enlarge(bilinear_weights(w, columns, align_corners), x.reshape(n * h, w, c))
    if h != rows:
        x = _enlarge(bilinear_weights(h, rows, align_corners), x.reshape(n, h, columns * c))
    return x.reshape(n, rows, columns, c)
