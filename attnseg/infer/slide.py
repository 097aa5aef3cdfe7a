"""The result for an image of any size, in blocks: memory grows with the window and the width.

A window's logits stay at the head's own stride. They are enlarged, averaged and resized only for
the block of the result in question, of `BLOCK` x `BLOCK` pixels, and freed once no block below
needs them. All programs have fixed shapes: the network's is that of a window, the others' that of
a block.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from attnseg.core.jitted import Jitted
from attnseg.core.mesh import batch_sharding, make_mesh, replicated
from attnseg.data.transforms import IMAGE_PADDING
from attnseg.infer.axis import Axis
from attnseg.infer.tta import Views

BLOCK = 256  # pixels of the result's sides worked on at once
ROUND = 32  # blocks of smaller results have sides of multiples of this
IN_FLIGHT = 4  # blocks that the device may be ahead of the host


@dataclasses.dataclass(frozen=True)
class Block:
    """Part of the result.

    Attributes:
      top, left: its first pixel.
      height, width: its pixels that lie in the result.
      values: f32 [rows columns k] on the device: logits of one view, or the mean probabilities of
        several. Below `height` and right of `width` they mean nothing.
    """

    top: int
    left: int
    height: int
    width: int
    values: jax.Array


class Programs:
    """A network and the programs around it, compiled once for each shape.

    Args:
      apply: ``(variables, u8 [n h w 3]) -> logits f32 [n h/s w/s k]``.
      mesh: the devices that share the windows; default the first one.
      batch: windows in one call of the network at most, rounded up to a multiple of the devices.
    """

    def __init__(
        self,
        apply: Callable[[Any, jax.Array], jax.Array],
        mesh: Mesh | None = None,
        batch: int = 1,
    ):
        self.mesh = make_mesh(devices=jax.local_devices()[:1]) if mesh is None else mesh
        self.batch = batch
        self.network = Jitted(apply, out_shardings=replicated(self.mesh))
        self.add = Jitted(_add)
        self.add_view = Jitted(_add_view, static_argnums=2)

    @property
    def compiled(self) -> int:
        """Programs compiled so far."""
        return self.network.compiled + self.add.compiled + self.add_view.compiled

    def tile_count(self, windows: int) -> int:
        """Rows of the network's batch for an image of so many windows: a power of two, or all."""
        rows = 1
        while rows < min(windows, self.batch):
            rows *= 2
        ways = self.mesh.size
        return -(-min(rows, self.batch) // ways) * ways

    def logits(self, variables: Any, tiles: np.ndarray) -> jax.Array:
        """Of windows u8 [n h w 3], f32 [n h/s w/s k] on the first device."""
        on_device = jax.device_put(tiles, batch_sharding(self.mesh))
        return self.network(variables, on_device).addressable_data(0)


def _add(total, logits, at, rows, columns):
    """Adds a window's share of a block: total [b c k] + rows [b p] logits [p q k] columns [c q]^T.

    `at` is the place of the p x q logits in the batch [n h w k].
    """
    sizes = (1, rows.shape[1], columns.shape[1], logits.shape[-1])
    part = jax.lax.dynamic_slice(logits, (*at, 0), sizes)[0].astype(jnp.float32)
    wide = jnp.einsum("cq,pqk->pck", columns, part, precision="highest")
    return total + jnp.einsum("bp,pck->bck", rows, wide, precision="highest")


def _add_view(total, logits, views):
    """Adds the probabilities of one of so many views."""
    return total + jax.nn.softmax(logits) / views


@dataclasses.dataclass(frozen=True)
class _Side:
    """The logits that one side of a block is made of: the first one, and weights f32 [b p]."""

    first: int
    matrix: np.ndarray


def _side(axis: Axis, index: int, grid: int, first: int, count: int, mirror: bool) -> _Side:
    if mirror:  # the last pixel is the mirrored image's first
        matrix = axis.weights(index, grid, axis.target - first - count, count)[::-1]
    else:
        matrix = axis.weights(index, grid, first, count)
    used = np.flatnonzero(matrix.any(0))
    reach = axis.reach(grid, count)
    begin = min(int(used[0]), grid - reach) if len(used) else 0
    return _Side(begin, np.ascontiguousarray(matrix[:, begin : begin + reach], np.float32))


class _Windows:
    """The logits of the windows of one scaled image, mirrored ones too, as far as needed."""

    def __init__(self, programs: Programs, variables, image: np.ndarray, axes, flip: bool):
        self.rows, self.columns = axes
        self.mirrors = (False, True) if flip else (False,)
        self._programs, self._variables, self._image = programs, variables, image
        self._order = [
            (i, j, mirror)
            for i in range(len(self.rows.starts))
            for j in range(len(self.columns.starts))
            for mirror in self.mirrors
        ]
        self._batch = programs.tile_count(len(self._order))
        self._next = 0
        self._logits: dict[tuple[int, int, bool], tuple[jax.Array, int]] = {}

    def keep(self, needed: range) -> None:
        """Computes the rows of windows `needed` and those above, and frees the latter."""
        while self._next < len(self._order) and self._order[self._next][0] < needed.stop:
            keys = self._order[self._next : self._next + self._batch]
            self._next += len(keys)
            shape = (self._batch, self.rows.padded, self.columns.padded, 3)
            tiles = np.empty(shape, np.uint8)
            for tile, key in zip(tiles, keys, strict=False):
                self._cut(tile, *key)
            tiles[len(keys) :] = IMAGE_PADDING
            logits = self._programs.logits(self._variables, tiles)
            self._logits |= {key: (logits, row) for row, key in enumerate(keys)}
        self._logits = {k: v for k, v in self._logits.items() if k[0] >= needed.start}

    def _cut(self, tile: np.ndarray, i: int, j: int, mirror: bool) -> None:
        height, width = self.rows.span, self.columns.span
        top, left = self.rows.starts[i], self.columns.starts[j]
        image = self._image[:, ::-1] if mirror else self._image
        tile[height:], tile[:, width:] = IMAGE_PADDING, IMAGE_PADDING
        tile[:height, :width] = image[top : top + height, left : left + width]

    def block(self, top: int, left: int, shape: tuple[int, int], mirror: bool) -> jax.Array:
        """Logits f32 [shape k] of a block; the rows of windows it needs are kept."""
        total = None
        first = self.columns.target - left - shape[1] if mirror else left
        for i in self.rows.touching(top, shape[0]):
            for j in self.columns.touching(first, shape[1]):
                logits, index = self._logits[i, j, mirror]
                _, height, width, k = logits.shape
                rows = _side(self.rows, i, height, top, shape[0], False)
                columns = _side(self.columns, j, width, left, shape[1], mirror)
                if total is None:
                    total = np.zeros((*shape, k), np.float32)
                at = (index, rows.first, columns.first)
                total = self._programs.add(total, logits, at, rows.matrix, columns.matrix)
        return total


def blocks(
    programs: Programs,
    variables: Any,
    image: np.ndarray,
    views: Views,
    size: tuple[int, int] | None = None,
) -> Iterator[Block]:
    """Yields the result for an image, block by block, row by row of blocks.

    Args:
      programs: the network.
      variables: what its `apply` takes.
      image: u8 [h w 3] RGB, of any size.
      views: how it is looked at.
      size: (h, w) of the result; default that of the image.
    """
    size = image.shape[:2] if size is None else size
    passes = []
    for scale in views.scales:
        scaled = views.fit.resized(image, scale)
        axes = views.axes(scaled.shape[:2], size)
        passes.append(_Windows(programs, variables, scaled, axes, views.flip))
    shape = tuple(min(BLOCK, -(-side // ROUND) * ROUND) for side in size)
    for top in range(0, size[0], shape[0]):
        for windows in passes:
            windows.keep(windows.rows.touching(top, shape[0]))
        for left in range(0, size[1], shape[1]):
            values = None
            for windows in passes:
                for mirror in windows.mirrors:
                    logits = windows.block(top, left, shape, mirror)
                    if views.count == 1:
                        values = logits
                        continue
                    total = np.zeros(logits.shape, np.float32) if values is None else values
                    values = programs.add_view(total, logits, views.count)
            inside = (min(shape[0], size[0] - top), min(shape[1], size[1] - left))
            yield Block(top, left, *inside, values)


def label_map(
    programs: Programs,
    variables: Any,
    image: np.ndarray,
    views: Views,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Most likely class of each pixel, u8 [h w]; i32 of more than 256 classes. See `blocks`."""
    size = image.shape[:2] if size is None else size
    result, waiting = None, collections.deque()

    def fetch() -> None:
        block, classes = waiting.popleft()
        rows, columns = slice(block.top, block.top + block.height), slice(block.left, None)
        part = np.asarray(classes)[: block.height, : block.width]
        result[rows, columns][:, : block.width] = part

    for block in blocks(programs, variables, image, views, size):
        if result is None:
            result = np.empty(size, np.uint8 if block.values.shape[-1] <= 256 else np.int32)
        waiting.append((block, jnp.argmax(block.values, axis=-1)))
        if len(waiting) > IN_FLIGHT:
            fetch()
    while waiting:
        fetch()
    return result


def probabilities(
    programs: Programs,
    variables: Any,
    image: np.ndarray,
    views: Views,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Probabilities f32 [h w k] of an image, all at once: 4 k bytes a pixel. See `blocks`."""
    size = image.shape[:2] if size is None else size
    result = None
    for block in blocks(programs, variables, image, views, size):
        values = block.values if views.count > 1 else jax.nn.softmax(block.values)
        if result is None:
            result = np.empty((*size, values.shape[-1]), np.float32)
        rows = slice(block.top, block.top + block.height)
        columns = slice(block.left, block.left + block.width)
        result[rows, columns] = np.asarray(values)[: block.height, : block.width]
    return result
