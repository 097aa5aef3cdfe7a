"""Non-overlapping patches."""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jax import Array


def merge_patches(x: Array, side: int) -> Array:
    """Puts the pixels of each patch into one vector, row by row.

    [n h w c] -> [n h//side w//side side*side*c]. Rows and columns that do not fill a patch are
    dropped. A linear map of the result is a convolution whose stride is its kernel.
    """
    _, h, w, _ = x.shape
    x = x[:, : h // side * side, : w // side * side]
    return rearrange(x, "n (h i) (w j) c -> n h w (i j c)", i=side, j=side)


def pad_to_multiples(x: Array, sides: tuple[int, int]) -> Array:
    """Appends rows and columns of zeros to [n h w c] until `sides` divide the grid."""
    rows, columns = (-size % side for size, side in zip(x.shape[1:3], sides, strict=True))
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0))) if rows or columns else x
