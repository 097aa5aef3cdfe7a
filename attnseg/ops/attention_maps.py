"""The attention of one pixel as a map over the keys: looks, not part of any forward pass.

A row of an attention matrix is computed alone, from queries and keys, so that looking at a pixel
never forms the matrix of all pixels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.criss_cross import criss_cross_weights


def softmax_map(query: Array, key: Array, pixel: tuple[int, int]) -> Array:
    """Softmax attention of one pixel.

    Args:
      query: [h w m d], scaled.
      key: [g v m d].
      pixel: (y, x) of the query on its grid.

    Returns:
      f32 [m g v]; each sums to one.
    """
    logits = jnp.einsum(
        "md,gvmd->mgv", query[pixel], key, precision="highest", preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=(-2, -1))


def criss_cross_maps(layers: list[tuple[Array, Array]], pixel: tuple[int, int]) -> Array:
    """What one pixel has gathered after criss-cross attention was applied 1, 2, ... times.

    After R times the map is the pixel's row of ``A_R ... A_1``, the product of the attention
    matrices (arXiv:1811.11721, section 3.3); skip connections are left out. A row vector times a
    criss-cross matrix is two small products along columns and rows.

    Args:
      layers: for each application, first to last, query and key [h w d].
      pixel: (y, x).

    Returns:
      f32 [R h w]; each sums to one.
    """
    weights = []
    for query, key in layers:
        column, row = criss_cross_weights(query[None], key[None])
        weights.append((column[0], row[0]))
    h, w = layers[0][0].shape[:2]
    maps = []
    for count in range(1, len(layers) + 1):
        share = jnp.zeros((h, w), jnp.float32).at[pixel].set(1.0)
        for column, row in reversed(weights[:count]):
            share = jnp.einsum("hw,hwg->gw", share, column, precision="highest") + jnp.einsum(
                "hw,hwv->hv", share, row, precision="highest"
            )
        maps.append(share)
    return jnp.stack(maps)


def window_map(
    weights: Array,
    pixel: tuple[int, int],
    *,
    window: tuple[int, int],
    shift: tuple[int, int],
    grid: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Attention of one pixel within its shifted window, on the whole map.

    Args:
      weights: [windows m l l], of windows in reading order after the roll by -`shift`.
      pixel: (y, x) on the map before padding and rolling.
      window: sides (a, b) of a window, l = a b.
      shift: rows and columns the padded map was rolled by.
      grid: size of the padded map.
      size: size of the map.

    Returns:
      f32 [m h w]; each sums to one, less what falls on padding.
    """
    (a, b), (gh, gw) = window, grid
    y, x = (pixel[0] - shift[0]) % gh, (pixel[1] - shift[1]) % gw
    row, column = y // a, x // b
    of_window = weights[row * (gw // b) + column]  # [m l l]
    values = np.asarray(of_window[:, (y % a) * b + x % b], np.float32)
    rolled = np.zeros((values.shape[0], gh, gw), np.float32)
    place = np.s_[:, row * a : (row + 1) * a, column * b : (column + 1) * b]
    rolled[place] = values.reshape(-1, a, b)
    return np.roll(rolled, shift, (1, 2))[:, : size[0], : size[1]]
