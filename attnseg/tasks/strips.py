"""Full-size logits in strips of rows, so that they never exist for the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.types import IGNORE
from attnseg.ops.resize import bilinear_matrix, resize_bilinear

ROWS = 128  # of a strip


def over_strips(
    function: Callable[[Array, Array], tuple[Any, Array]], logits: Array, labels: Array
) -> tuple[Any, Array]:
    """Enlarges logits to the size of the labels, strip by strip, and adds up what is made of them.

    Args:
      function: ``(logits f32 [n r w k], labels [n r w]) -> (sums, rows [n r w])``; labels of rows
        below the image are IGNORE.
      logits: [n h' w' k].
      labels: [n h w].

    Returns:
      The sums over all strips, and the rows put together, [n h w].
    """
    n, height, width = labels.shape
    if height <= ROWS:
        return function(resize_bilinear(logits, (height, width)), labels)
    count = -(-height // ROWS)
    filling = count * ROWS - height
    # Filled up by repeating the last row, whose labels do not count.
    matrix = np.pad(bilinear_matrix(logits.shape[1], height), ((0, filling), (0, 0)), mode="edge")
    labels = jnp.pad(labels, ((0, 0), (0, filling), (0, 0)), constant_values=IGNORE)
    wide = resize_bilinear(logits, (logits.shape[1], width))
    flat = wide.reshape(n, logits.shape[1], -1)

    def strip(matrix: Array, labels: Array) -> tuple[Any, Array]:
        weights = jnp.broadcast_to(matrix.astype(flat.dtype), (n, *matrix.shape))
        tall = jnp.matmul(weights, flat, precision="highest")
        return function(tall.reshape(n, ROWS, width, -1), labels)

    def step(sums: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        more, rows = strip(*inputs)
        return jax.tree_util.tree_map(jnp.add, sums, more), rows

    matrices = jnp.asarray(matrix).reshape(count, ROWS, -1)
    strips = jnp.moveaxis(labels.reshape(n, count, ROWS, width), 1, 0)
    like = jax.eval_shape(strip, matrices[0], strips[0])[0]
    zeros = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    sums, rows = jax.lax.scan(step, zeros, (matrices, strips))
    return sums, jnp.moveaxis(rows, 0, 1).reshape(n, count * ROWS, width)[:, :height]
