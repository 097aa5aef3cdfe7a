"""MSCAN, SegNeXt's convolutional encoder (arXiv:2209.08575, section 3.1 and table 2)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Conv
from attnseg.layers.msca import MSCANBlock
from attnseg.layers.norm import BatchNorm, LayerNorm
from attnseg.ops.activation import gelu

SIZES = {
    "mscan_t": dict(widths=(32, 64, 160, 256), depths=(3, 3, 5, 2)),
    "mscan_s": dict(widths=(64, 128, 320, 512), depths=(2, 2, 4, 2)),
    "mscan_b": dict(widths=(64, 128, 320, 512), depths=(3, 3, 12, 3)),
    "mscan_l": dict(widths=(64, 128, 320, 512), depths=(3, 5, 27, 3), drop_path=0.3),
}


class DownConv(nn.Module):
    """3x3 convolution of stride 2 and BatchNorm.

    Published weights have a bias in front of BatchNorm. It is kept, but never computed with:
    batch statistics cancel it, so its gradient is exactly zero.
    """

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n ceil(h/2) ceil(w/2) width]."""
        x = Conv(self.width, 3, 2, use_bias=False, dtype=self.dtype, name="conv")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return BatchNorm(dtype=self.dtype, name="norm")(x, train=train, shift=bias)


class Stem(nn.Module):
    """Two overlapping halvings of the image."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w 3] -> [n ceil(h/4) ceil(w/4) width]."""
        x = gelu(DownConv(self.width // 2, self.dtype, name="down1")(x, train=train))
        return DownConv(self.width, self.dtype, name="down2")(x, train=train)


class MSCAN(nn.Module):
    """Multi-scale convolutional attention network: stages at strides 4, 8, 16 and 32."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    ratios: tuple[int, ...] = (8, 8, 4, 4)  # FFN expansion
    drop_path: float = 0.1  # rate of the last block; grows linearly from 0
    remat: bool = False  # recompute each block in the backward pass to save memory
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        per_stage = (self.widths, self.depths, self.ratios)
        check(
            len({len(v) for v in per_stage}) == 1,
            "mscan: widths, depths and ratios need one value per stage, got lengths "
            f"{[len(v) for v in per_stage]}.",
        )
        check(
            self.widths[0] % 2 == 0,
            f"mscan: the first width is {self.widths[0]}; it must be even, as the stem halves it.",
        )

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Features:
        """Normalised images [n h w 3] -> features [n h/s w/s c] for s = 4, 8, 16, 32."""
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        Block = nn.remat(MSCANBlock, static_argnums=(2,)) if self.remat else MSCANBlock
        maps = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            Embed = Stem if i == 0 else DownConv
            x = Embed(width, self.dtype, name=f"stage{i + 1}_embed")(x, train=train)
            for j in range(depth):
                name = f"stage{i + 1}_block{j + 1}"
                x = Block(self.ratios[i], next(rates), self.dtype, name=name)(x, train)
            x = LayerNorm(dtype=self.dtype, name=f"stage{i + 1}_norm")(x)
            maps.append(x)
        strides = tuple(4 * 2**i for i in range(len(self.widths)))
        return Features(tuple(maps), strides, tuple(self.widths))
