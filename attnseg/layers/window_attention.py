"""Swin's block: attention in shifted windows (arXiv:2103.14030, section 3.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from attnseg.layers.conv import KeyLinear, Linear, linear_init
from attnseg.layers.drop import DropPath
from attnseg.layers.norm import LayerNorm
from attnseg.layers.record import WindowRecord, record
from attnseg.ops.activation import gelu
from attnseg.ops.patches import pad_to_multiples


def relative_index(window: tuple[int, int], table: tuple[int, int]) -> np.ndarray:
    """Row of the bias table for each pair of tokens, i32 [l l] with l = window[0] * window[1].

    The table holds the offsets of a window of size `table`, no smaller than `window`: query
    minus key, rows of offsets first.
    """
    position = np.indices(window).reshape(2, -1)
    rows, columns = position[:, :, None] - position[:, None, :]
    return (rows + table[0] - 1) * (2 * table[1] - 1) + columns + table[1] - 1


def regions(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """Which piece of the image each token of a shifted grid comes from, i32 [windows l].

    Rolling joins opposite borders in the last windows; only tokens of one piece may attend to
    each other. What lies in different windows needs no telling apart.
    """
    rows, columns = (np.arange(size) >= size - s for size, s in zip(grid, shift, strict=True))
    pieces = 2 * rows[:, None].astype(np.int32) + columns
    return rearrange(pieces, "(i a) (j b) -> (i j) (a b)", a=window[0], b=window[1])


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias per offset (eq. 4).

    The grid is padded on the right and at the bottom to whole windows; as in the code the
    published weights were trained with, padding is attended to. A side of the grid no longer
    than the window becomes the window and is not shifted; the bias table keeps its size.
    """

    heads: int
    window: tuple[int, int]
    shifted: bool
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        _, h, w, c = x.shape
        offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        table = self.param("relative_bias", linear_init, (offsets, self.heads), jnp.float32)

        window = (min(self.window[0], h), min(self.window[1], w))
        shift = tuple(
            side // 2 if self.shifted and size > side else 0
            for size, side in zip((h, w), window, strict=True)
        )
        x = pad_to_multiples(x, window)
        grid = x.shape[1:3]
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))

        sizes = dict(m=self.heads, a=window[0], b=window[1])
        query = Linear(c, dtype=self.dtype, name="query")(x) * (c // self.heads) ** -0.5
        key = KeyLinear(c, dtype=self.dtype, name="key")(x)
        value = Linear(c, dtype=self.dtype, name="value")(x)
        query, key, value = (
            rearrange(t, "n (i a) (j b) (m d) -> n (i j) (a b) m d", **sizes)
            for t in (query, key, value)
        )
        logits = jnp.einsum("nplmd,npsmd->npmls", query, key, preferred_element_type=jnp.float32)
        bias = table[relative_index(window, self.window)]
        logits = logits + jnp.moveaxis(bias, -1, 0)
        if any(shift):
            piece = regions(grid, window, shift)
            together = jnp.asarray(piece)[:, :, None] == jnp.asarray(piece)[:, None, :]
            logits = jnp.where(together[:, None], logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        record(self, lambda: WindowRecord(weights, window, shift, grid, (h, w)))
        x = jnp.einsum("npmls,npsmd->nplmd", weights, value)
        x = rearrange(
            x, "n (i j) (a b) m d -> n (i a) (j b) (m d)", i=grid[0] // window[0], **sizes
        )
        x = jnp.roll(x, shift, (1, 2))[:, :h, :w]
        return Linear(c, dtype=self.dtype, name="out")(x)


class FFN(nn.Module):
    """Two linear maps around GELU."""

    ratio: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[... c] -> [... c]."""
        c = x.shape[-1]
        x = gelu(Linear(c * self.ratio, dtype=self.dtype, name="expand")(x))
        return Linear(c, dtype=self.dtype, name="project")(x)


class SwinBlock(nn.Module):
    """Pre-norm residual block: attention in windows, then FFN (eq. 3)."""

    heads: int
    window: tuple[int, int]
    shifted: bool
    ratio: int
    drop_path: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h w c]."""
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = WindowAttention(self.heads, self.window, self.shifted, self.dtype, name="attention")(y)
        x = x + DropPath(self.drop_path, name="drop1")(y, train=train)
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = FFN(self.ratio, self.dtype, name="ffn")(y)
        return x + DropPath(self.drop_path, name="drop2")(y, train=train)
