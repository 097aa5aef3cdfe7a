"""Mix Transformer, SegFormer's encoder (arXiv:2105.15203, section 3.1 and table 6).

The released networks use an FFN expansion of 4 in every stage; the paper's table 6 prints 8 for
the first two stages of B0 to B4. Sizes here are those of the released networks.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Conv, linear_init
from attnseg.layers.efficient_attention import SegFormerBlock
from attnseg.layers.norm import LayerNorm
from attnseg.ops.channels import add_bias
from attnseg.ops.resize import resize_bilinear

SIZES = {
    "mit_b0": dict(widths=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "mit_b1": dict(widths=(64, 128, 320, 512), depths=(2, 2, 2, 2)),
    "mit_b2": dict(widths=(64, 128, 320, 512), depths=(3, 4, 6, 3)),
    "mit_b3": dict(widths=(64, 128, 320, 512), depths=(3, 4, 18, 3)),
    "mit_b4": dict(widths=(64, 128, 320, 512), depths=(3, 8, 27, 3)),
    "mit_b5": dict(widths=(64, 128, 320, 512), depths=(3, 6, 40, 3)),
}


class Epsilons(NamedTuple):
    """LayerNorm epsilons by place; implementations of the same network disagree."""

    embed: float
    block: float
    reduction: float
    stage: float


EPSILONS = {
    "hf": Epsilons(1e-5, 1e-5, 1e-5, 1e-5),
    "mmseg": Epsilons(1e-6, 1e-6, 1e-6, 1e-6),
    "nvlabs": Epsilons(embed=1e-5, block=1e-6, reduction=1e-5, stage=1e-6),
}


class PatchEmbed(nn.Module):
    """Overlapped patch embedding: a strided convolution and LayerNorm."""

    width: int
    kernel: int
    stride: int
    epsilon: float
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w 3] -> [n ceil(h/stride) ceil(w/stride) width]."""
        x = Conv(self.width, self.kernel, self.stride, dtype=self.dtype, name="proj")(x)
        return LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)


class LearnedPosition(nn.Module):
    """Adds a learned vector to each place of a grid, interpolated where the grid is another.

    The table takes the size of the grid at initialisation: that of the training crop.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        if self.has_variable("params", "table"):
            table = self.get_variable("params", "table")
        else:
            table = self.param("table", linear_init, x.shape[1:], jnp.float32)
        return add_bias(x, resize_bilinear(table[None], x.shape[1:3])[0])


POSITIONS = ("mix_ffn", "learned")


class MiT(nn.Module):
    """Mix Transformer: four stages at strides 4, 8, 16 and 32."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)  # keys and values per side, R^(1/2) of eq. 1
    ratios: tuple[int, ...] = (4, 4, 4, 4)  # FFN expansion
    drop_path: float = 0.1  # rate of the last block; grows linearly from 0
    layout: str = "hf"  # whose LayerNorm epsilons: hf, mmseg or nvlabs
    remat: bool = False  # recompute each block in the backward pass to save memory
    # What tells positions apart: the convolutions of the Mix-FFN; or, as in the other half of the
    # paper's table 1c, a learned table after each patch embedding and a plain FFN.
    position: str = "mix_ffn"  # or "learned"
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        per_stage = (self.widths, self.depths, self.heads, self.reductions, self.ratios)
        check(
            len({len(v) for v in per_stage}) == 1,
            "mit: widths, depths, heads, reductions and ratios need one value per stage, got "
            f"lengths {[len(v) for v in per_stage]}.",
        )
        bad = [(c, m) for c, m in zip(self.widths, self.heads, strict=True) if c % m]
        check(not bad, f"mit: width and heads {bad[:1]} do not divide; heads must divide widths.")
        check(self.layout in EPSILONS, f'mit: layout "{self.layout}" is none of {list(EPSILONS)}.')
        check(
            self.position in POSITIONS,
            f'mit: position "{self.position}" is none of {list(POSITIONS)}.',
        )

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Features:
        """Normalised images [n h w 3] -> features [n h/s w/s c] for s = 4, 8, 16, 32."""
        epsilons = EPSILONS[self.layout]
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        Block = nn.remat(SegFormerBlock, static_argnums=(2,)) if self.remat else SegFormerBlock
        strides = tuple(4 * 2**i for i in range(len(self.widths)))
        maps = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            x = PatchEmbed(
                width, kernel, stride, epsilons.embed, self.dtype, name=f"stage{i + 1}_embed"
            )(x)
            if self.position == "learned":
                x = LearnedPosition(name=f"stage{i + 1}_position")(x)
            for j in range(depth):
                x = Block(
                    self.heads[i],
                    self.reductions[i],
                    self.ratios[i],
                    next(rates),
                    epsilons.block,
                    epsilons.reduction,
                    self.dtype,
                    self.position == "mix_ffn",
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
            x = LayerNorm(epsilons.stage, dtype=self.dtype, name=f"stage{i + 1}_norm")(x)
            maps.append(x)
        return Features(tuple(maps), strides, tuple(self.widths))
