"""Position logits of attention over a grid, one axis at a time (arXiv:2101.11605, figure 4).

A position term that is a sum of a vertical and a horizontal part gives logits that are such a
sum: [n m h w h] and [n m h w w] are formed and added by broadcasting, never a vector for each
pair of pixels. Parts are returned with axes of size one, ready to be added to [n m h w g v],
where (h w) is the query's place and (g v) the key's.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.ops.resize import bilinear_weights, is_static


def _einsum(subscripts: str, query: Array, table: Array) -> Array:
    table = table.astype(query.dtype)
    return jnp.einsum(subscripts, query, table, preferred_element_type=jnp.float32)


def _by_pair(table: Array, length: int) -> Array:
    """Table [2l-1 d] of offsets -> [l l d], the vector of offset ``key - query``."""
    check(
        table.shape[0] == 2 * length - 1,  # indexing beyond a table would go unnoticed
        f"a table of {table.shape[0]} offsets does not fit {length} pixels; {2 * length - 1} do.",
    )
    place = np.arange(length) if is_static(length) else jnp.arange(length)
    return table[place[None, :] - place[:, None] + length - 1]


def relative_logits(query: Array, height: Array, width: Array) -> tuple[Array, Array]:
    """Logits ``q_i . r(j - i)``, the offset told apart by axis.

    Args:
      query: [n h w m d].
      height: [2h-1 d], vectors of the vertical offsets -(h-1) .. h-1.
      width: [2w-1 d], the horizontal ones.

    Returns:
      f32 [n m h w h 1] and [n m h w 1 w].
    """
    h, w = query.shape[1:3]
    rows = _einsum("nhwmd,hgd->nmhwg", query, _by_pair(height, h))
    columns = _einsum("nhwmd,wvd->nmhwv", query, _by_pair(width, w))
    return rows[..., None], columns[..., None, :]


def absolute_logits(query: Array, height: Array, width: Array) -> tuple[Array, Array]:
    """Logits ``q_i . p(j)`` of the key's place, with tables [h d] and [w d].

    `query` and the returned parts as in `relative_logits`.
    """
    rows = _einsum("nhwmd,gd->nmhwg", query, height)
    columns = _einsum("nhwmd,vd->nmhwv", query, width)
    return rows[..., None], columns[..., None, :]


def query_place_logits(query: Array, height: Array, width: Array) -> tuple[Array, Array]:
    """Logits ``p(i) . q_j``: the query's place meets the query vector of the key's pixel.

    Args:
      query: [n h w m d].
      height, width: [h m d] and [w m d], tables of each head.

    Returns:
      f32 [n m h 1 h w] and [n m 1 w h w].
    """
    rows = _einsum("ngvmd,hmd->nmhgv", query, height)
    columns = _einsum("ngvmd,wmd->nmwgv", query, width)
    return rows[:, :, :, None], columns[:, :, None]


def resize_relative(table: Array, length: int) -> Array:
    """Table [2l-1 d] of relative offsets -> [2*length-1 d] for another grid.

    Linear over the offsets, the largest on the largest and zero on zero; the same length gives
    the same numbers.
    """
    old = (table.shape[0] + 1) // 2
    if old == length:
        return table
    if length == 1:
        return table[old - 1 : old]
    matrix = bilinear_weights(2 * old - 1, 2 * length - 1, True)
    resized = jnp.tensordot(matrix, table, 1, precision="highest")
    return (
        resized
        if is_static(length)
        else jnp.where(jnp.asarray(length) == 1, table[old - 1], resized)
    )


def resize_absolute(table: Array, length: int) -> Array:
    """Table [l ...] of places -> [length ...], linear between the centres of the pixels."""
    if table.shape[0] == length:
        return table
    return jnp.tensordot(bilinear_weights(table.shape[0], length), table, 1, precision="highest")
