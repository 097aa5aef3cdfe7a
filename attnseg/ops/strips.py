"""Work on an enlarged map strip by strip, so that the map itself never exists.

Logits at a quarter of the side become 16 times as many numbers at label resolution: 2.5 GB for 16
images of 512x512 with 150 classes, in float32, and a loss makes several arrays of that size. A
strip of rows is enlarged, used, and forgotten; enlarging again costs less than keeping it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.platforms import apart, by_platform
from attnseg.ops.precision import accumulator
from attnseg.ops.resize import bilinear_matrix, resize_bilinear

# Numbers of one enlarged strip, by platform: what the cache holds, and what keeps a GPU busy.
_STRIP = {"cpu": 1 << 20, "default": 1 << 26}
_ADDED = 32  # rows of a strip, and of what it is made of, that are added up one by one
_MANY = 64  # classes from which a CPU gains by strips that its cache holds for arg-max and counts


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


def strip_rows(shape: tuple[int, ...], width: int, platform: str) -> int:
    """Rows of the strips for work that is bound by memory: [n h w k] enlarged to this width."""
    return max(_STRIP[platform] // (shape[0] * width * shape[-1]), 1)


class Strips:
    """An enlargement of [n h w k] to [n size[0] size[1] k], cut into strips of at most `rows`.

    With `adds`, for a CPU, the few rows of a strip are sums and not a product, which takes longer
    and flattens the pixels that all further work on the strip then has to find again.
    """

    def __init__(self, shape: tuple[int, ...], size: tuple[int, int], rows: int, adds: bool):
        self.h = shape[1]
        self.height, self.width = size
        self.count = -(-self.height // rows)
        self.rows = -(-self.height // self.count)  # strips of nearly the same height
        self.count = -(-self.height // self.rows)
        self.first, self.bands = _bands(self.h, self.height, self.rows)
        self.adds = adds and max(self.bands.shape[1:]) <= _ADDED

    def inputs(self, *maps: Array, beyond: int = 0) -> tuple:
        """What a scan over the strips takes: place, matrix, and the strips of maps [n h w].

        `beyond` stands in the rows below the map, which fill the last strip.
        """
        padding = [(0, 0), (0, self.count * self.rows - self.height), (0, 0)]
        padded = [jnp.pad(x, padding, constant_values=beyond) for x in maps]
        cut = [jnp.moveaxis(x.reshape(-1, self.count, self.rows, self.width), 1, 0) for x in padded]
        return jnp.asarray(self.first), jnp.asarray(self.bands), *cut

    def joined(self, strips: Array) -> Array:
        """[count n rows w] -> [n h w]."""
        whole = jnp.moveaxis(strips, 0, 1).reshape(strips.shape[1], -1, self.width)
        return whole[:, : self.height]

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
        wide = resize_bilinear(part.astype(accumulator(part)), (length, self.width))
        band = band.astype(wide.dtype)
        if self.adds:
            return apart(_add_rows, wide, band)
        band = jnp.broadcast_to(band, (n, *band.shape))
        strip = jnp.matmul(band, wide.reshape(n, length, -1), precision="highest")
        return strip.reshape(n, self.rows, self.width, k)

    def narrow(self, grad: Array, band: Array, w: int) -> Array:
        """The transpose of `enlarge`: [n rows size[1] k] -> [n length w k]."""
        n, k = len(grad), grad.shape[-1]
        length = self.bands.shape[2]
        band = band.astype(grad.dtype).T
        if self.adds:
            wide = apart(_add_rows, grad, band)
        else:
            band = jnp.broadcast_to(band, (n, *band.shape))
            wide = jnp.matmul(band, grad.reshape(n, self.rows, -1), precision="highest")
            wide = wide.reshape(n, length, self.width, k)
        part = jnp.zeros((n, length, w, k), grad.dtype)
        return jax.vjp(lambda x: resize_bilinear(x, (length, self.width)), part)[1](wide)[0]


def _add_rows(x: Array, matrix: Array) -> Array:
    """[n s w k] and [t s] -> [n t w k], for a few rows."""
    terms = (x[:, i, None] * matrix[:, i, None, None] for i in range(x.shape[1]))
    return functools.reduce(jnp.add, terms)


def over_strips(
    function: Callable[[Array, Array], tuple[Any, Array]],
    x: Array,
    labels: Array,
    rows: int,
    beyond: int,
) -> tuple[Any, Array]:
    """Enlarges a map to the size of the labels, strip by strip, and adds up what is made of it.

    Args:
      function: ``(enlarged [n r w k], labels [n r w]) -> (sums, rows [n r w])``.
      x: [n h' w' k].
      labels: [n h w].
      rows: of a strip at most; on a CPU a strip of many classes has fewer.
      beyond: label of the rows below the map.

    Returns:
      The sums over all strips, and the rows put together, [n h w].
    """

    def run(x: Array, labels: Array, *, platform: str) -> tuple[Any, Array]:
        small = platform == "cpu" and x.shape[-1] >= _MANY
        most = min(rows, strip_rows(x.shape, labels.shape[2], platform)) if small else rows
        strips = Strips(x.shape, labels.shape[1:], most, adds=small)

        def strip(first: Array, band: Array, labels: Array) -> tuple[Any, Array]:
            return function(strips.enlarge(strips.part(x, first), band), labels)

        def step(sums: Any, inputs: tuple) -> tuple[Any, Array]:
            more, rows = strip(*inputs)
            return jax.tree_util.tree_map(jnp.add, sums, more), rows

        inputs = strips.inputs(labels, beyond=beyond)
        like = jax.eval_shape(strip, *(a[0] for a in inputs))[0]
        zeros = jax.tree_util.tree_map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        sums, parts = jax.lax.scan(step, zeros, inputs)
        return sums, strips.joined(parts)

    return by_platform(run, x, labels)
