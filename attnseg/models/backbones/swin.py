"""Swin Transformer (arXiv:2103.14030, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Linear, PatchConv
from attnseg.layers.norm import LayerNorm
from attnseg.layers.window_attention import SwinBlock
from attnseg.ops.patches import merge_patches, pad_to_multiples

PATCH = 4
SIZES = {"swin_t": dict(widths=(96, 192, 384, 768), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))}
NORMS = ("last", "all")


class PatchEmbed(nn.Module):
    """Linear embedding of 4x4 patches, and LayerNorm; incomplete patches are padded."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w 3] -> [n ceil(h/4) ceil(w/4) width]."""
        x = pad_to_multiples(x, (PATCH, PATCH))
        x = PatchConv(self.width, PATCH, dtype=self.dtype, name="proj")(x)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class PatchMerging(nn.Module):
    """Four neighbours concatenated, normalised and mixed; odd grids are padded."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n ceil(h/2) ceil(w/2) width]."""
        x = merge_patches(pad_to_multiples(x, (2, 2)), 2)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return Linear(self.width, use_bias=False, dtype=self.dtype, name="proj")(x)


class Swin(nn.Module):
    """Swin Transformer: four stages at strides 4, 8, 16 and 32."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int | tuple[int, int], ...] = (7, 7, 7, 7)  # per stage: side or (rows, columns)
    ratio: int = 4  # FFN expansion
    drop_path: float = 0.2  # rate of the last block; grows linearly from 0
    norms: str = "last"  # LayerNorm on the maps handed out: last (classifier) or all (dense tasks)
    remat: bool = False  # recompute each block in the backward pass to save memory
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        # Lists inside lists come from JSON; linen fields must be hashable.
        self.windows = tuple(
            tuple(v) if isinstance(v, tuple | list) else (v, v) for v in self.windows
        )
        super().__post_init__()
        per_stage = (self.widths, self.depths, self.heads, self.windows)
        check(
            len({len(v) for v in per_stage}) == 1,
            "swin: widths, depths, heads and windows need one value per stage, got lengths "
            f"{[len(v) for v in per_stage]}.",
        )
        bad = [(c, m) for c, m in zip(self.widths, self.heads, strict=True) if c % m]
        check(not bad, f"swin: width and heads {bad[:1]} do not divide; heads must divide widths.")
        check(
            all(len(v) == 2 and min(v) > 0 for v in self.windows),
            f"swin: windows {self.windows}; each must be a positive side or (rows, columns).",
        )
        check(self.norms in NORMS, f'swin: norms "{self.norms}" is none of {list(NORMS)}.')

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Features:
        """Normalised images [n h w 3] -> features [n ceil(h/s) ceil(w/s) c], s = 4, 8, 16, 32."""
        stages = len(self.widths)
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        Block = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock
        x = PatchEmbed(self.widths[0], self.dtype, name="embed")(x)
        maps = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            if i > 1:
                x = PatchMerging(width, self.dtype, name=f"stage{i}_merge")(x)
            for j in range(depth):
                x = Block(
                    self.heads[i - 1],
                    self.windows[i - 1],
                    j % 2 == 1,
                    self.ratio,
                    next(rates),
                    self.dtype,
                    name=f"stage{i}_block{j + 1}",
                )(x, train)
            normed = self.norms == "all" or i == stages
            norm = LayerNorm(dtype=self.dtype, name=f"stage{i}_norm") if normed else None
            maps.append(norm(x) if normed else x)
        strides = tuple(PATCH * 2**i for i in range(stages))
        return Features(tuple(maps), strides, tuple(self.widths))
