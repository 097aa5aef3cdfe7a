"""Work on an enlarged map strip by strip, so that the map itself never exists.

Logits at a quarter of the side become 16 times as many numbers at label resolution: 2.5 GB for 16
images of 512x512 with 150 classes, in float32, and a loss makes several arrays of that size. A
strip of rows is enlarged, used, and forgotten; enlarging again costs less than keeping it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.resize import bilinear_matrix, resize_bilinear

# Numbers of one enlarged strip, by platform: what the cache holds, and what keeps a GPU busy.
_STRIP = {"cpu": 1 << 20, "default": 1 << 26}


@functools.lru_cache(maxsize=64)
def _bands(source: int, target: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """First source row of each strip [strips], and the strip's rows of `bilinear_matrix`.

    The matrices are [strips rows length], with rows of zeros beyond the last row of the map.
    """
    count = -(-target // rows)
    matrix = np.pad(bilinear_matrix(source, target), [(0, count * rows - target), (0, 0)])
    matrix = matrix.reshape(count, rows, source)
    used = np.any(matrix, axis=1)
    first, last = used.argmax(1), source - 1 - used[:, ::-1].argmax(1)
    length = int(np.max(last - first)) + 1
    first = np.minimum(first, source - length)
    bands = np.stack([m[:, f : f + length] for m, f in zip(matrix, first, strict=True)])
    for array in (first, bands):
        array.setflags(write=False)  # shared through the cache
    return first.astype(np.int32), bands


class Strips:
    """An enlargement of [n h w k] to [n size[0] size[1] k], cut into strips of rows."""

    def __init__(self, shape: tuple[int, ...], size: tuple[int, int], platform: str):
        n, self.h, _, k = shape
        self.height, self.width = size
        wanted = max(_STRIP[platform] // (n * self.width * k), 1)
        self.count = -(-self.height // wanted)
        self.rows = -(-self.height // self.count)  # strips of nearly the same height
        self.count = -(-self.height // self.rows)
        self.first, self.bands = _bands(self.h, self.height, self.rows)

    def inputs(self, *maps: Array) -> tuple:
        """What a scan over the strips takes: place, matrix, and the strips of maps [n h w]."""
        padding = [(0, 0), (0, self.count * self.rows - self.height), (0, 0)]
        cut = [
            jnp.moveaxis(jnp.pad(x, padding).reshape(-1, self.count, self.rows, self.width), 1, 0)
            for x in maps
        ]
        return jnp.asarray(self.first), jnp.asarray(self.bands), *cut

    def part(self, x: Array, first: Array) -> Array:
        """The rows of `x` that a strip is made of."""
        return jax.lax.dynamic_slice_in_dim(x, first, self.bands.shape[2], axis=1)

    def add(self, total: Array, part: Array, first: Array) -> Array:
        """Adds a gradient of `part` to that of the whole."""
        start = (0, first, 0, 0)
        old = jax.lax.dynamic_slice(total, start, part.shape)
        return jax.lax.dynamic_update_slice(total, old + part, start)

    def enlarge(self, part: Array, band: Array) -> Array:
        """[n length w k] and the strip's matrix -> [n rows size[1] k], float32 at least."""
        n, length, _, k = part.shape
        part = part.astype(jnp.promote_types(part.dtype, jnp.float32))
        wide = resize_bilinear(part, (length, self.width)).reshape(n, length, -1)
        band = jnp.broadcast_to(band.astype(part.dtype), (n, *band.shape))
        return jnp.matmul(band, wide, precision="highest").reshape(n, self.rows, self.width, k)
