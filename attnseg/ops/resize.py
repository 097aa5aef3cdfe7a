"""Bilinear resizing as two small matrix products.

`jax.image.resize` smooths when it shrinks; this one never does, as torch and OpenCV: it samples
the four neighbours, with half-pixel centres or with corners aligned.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array


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


def _enlarge(matrix: np.ndarray, x: Array) -> Array:
    """[t s] x [n s c] -> [n t c] as one batched product, which leaves `x` where it lies."""
    batched = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return jnp.matmul(batched, x, precision="highest")


def resize_bilinear(x: Array, size: tuple[int, int], *, align_corners: bool = False) -> Array:
    """Resizes [n h w c] to [n size[0] size[1] c], in the dtype of `x`."""
    n, h, w, c = x.shape
    rows, columns = size
    # Columns before rows: the second product is then wide, and the first one small.
    if w != columns:
        x = _enlarge(bilinear_matrix(w, columns, align_corners), x.reshape(n * h, w, c))
    if h != rows:
        x = _enlarge(bilinear_matrix(h, rows, align_corners), x.reshape(n, h, columns * c))
    return x.reshape(n, rows, columns, c)
