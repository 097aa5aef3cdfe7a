"""Conv2Former (arXiv:2211.11943, section 3 and table 1) and its small-image variant.

The variant "cifar" keeps more pixels and fewer parameters for images of 32x32: a 1x1 stem,
GroupNorm over all channels before each downsampling, no layer scale.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Conv, Linear, linear_init
from attnseg.layers.conv_modulation import EPSILON, FUSIONS, Conv2FormerBlock
from attnseg.layers.norm import BatchNorm, GroupNorm, LayerNorm
from attnseg.ops.activation import gelu
from attnseg.ops.patches import merge_patches

_N = dict(widths=(64, 128, 256, 512), depths=(2, 2, 8, 2))
_T = dict(widths=(72, 144, 288, 576))
SIZES = {
    "conv2former_n": dict(_N, kernel=7),
    "conv2former_t": dict(_T, depths=(3, 3, 12, 3)),
    "conv2former_s": dict(_T, depths=(4, 4, 32, 4)),
    "conv2former_b": dict(widths=(96, 192, 384, 768), depths=(4, 4, 34, 4)),
    "conv2former_l": dict(widths=(128, 256, 512, 1024), depths=(4, 4, 48, 4)),
    "conv2former_n_cifar": dict(_N, ratio=2, layer_scale=0.0, stem="cifar", norms="last"),
}
STEM_STRIDES = {"official": 4, "cifar": 1}
NORMS = ("none", "last", "all")


class Stem(nn.Module):
    """Two 3x3 convolutions and a 2x2 one, four times smaller in all; BatchNorm follows GELU."""

    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w 3] -> [n ceil(h/2)//2 ceil(w/2)//2 width]."""
        for i, stride in enumerate((2, 1), start=1):
            x = Conv(
                self.width // 2,
                3,
                stride,
                use_bias=False,
                kernel_init=linear_init,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = BatchNorm(dtype=self.dtype, name=f"norm{i}")(gelu(x), train=train)
        x = merge_patches(x, 2)
        return Linear(self.width, use_bias=False, dtype=self.dtype, name="proj")(x)


class Downsample(nn.Module):
    """Normalisation and a 2x2 convolution of stride 2."""

    width: int
    stem: str
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h//2 w//2 width]."""
        official = self.stem == "official"
        if official:
            x = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)
        else:
            x = GroupNorm(num_groups=1, dtype=self.dtype, name="norm")(x)
        x = merge_patches(x, 2)
        return Linear(self.width, use_bias=official, dtype=self.dtype, name="proj")(x)


class Conv2Former(nn.Module):
    """Four stages of convolutional modulation at strides 4 to 32, or 1 to 8 with stem "cifar"."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernel: int = 11  # side of the modulating neighbourhood
    ratio: int = 4  # FFN expansion
    drop_path: float = 0.1  # rate of the last block; grows linearly from 0
    layer_scale: float = 1e-6  # first value of the blocks' factors; 0 leaves them out
    stem: str = "official"  # official or cifar; also decides how stages are joined
    fusion: str = "hadamard"  # or sum, the paper's ablation
    norms: str = "none"  # LayerNorm on the maps handed out: none, last or all
    remat: bool = False  # recompute each block in the backward pass to save memory
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            len(self.widths) == len(self.depths),
            "conv2former: widths and depths need one value per stage, got lengths "
            f"{len(self.widths)} and {len(self.depths)}.",
        )
        check(
            self.kernel > 0 and self.kernel % 2 == 1,
            f"conv2former: kernel is {self.kernel}; it must be odd, so that it has a centre.",
        )
        check(
            self.stem != "official" or self.widths[0] % 2 == 0,
            f"conv2former: the first width is {self.widths[0]}; the official stem halves it.",
        )
        for field, known in (("stem", STEM_STRIDES), ("fusion", FUSIONS), ("norms", NORMS)):
            value = getattr(self, field)
            check(value in known, f'conv2former: {field} "{value}" is none of {list(known)}.')

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Features:
        """Normalised images [n h w 3] -> features [n h/s w/s c] for s = 4, 8, 16, 32.

        Raises:
          UserError: an image too small for the last stage.
        """
        stages = len(self.widths)
        strides = tuple(STEM_STRIDES[self.stem] * 2**i for i in range(stages))
        check(
            all(side >= strides[-1] for side in x.shape[1:3]),  # sizes may be symbolic
            f"the image is too small: {x.shape[1]}x{x.shape[2]}; sides of at least "
            f"{strides[-1]} pixels are needed.",
        )
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        Block = nn.remat(Conv2FormerBlock, static_argnums=(2,)) if self.remat else Conv2FormerBlock
        if self.stem == "official":
            x = Stem(self.widths[0], self.dtype, name="stem")(x, train=train)
        else:
            x = Linear(self.widths[0], dtype=self.dtype, name="stem")(x)
        maps = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            if i > 1:
                x = Downsample(width, self.stem, self.dtype, name=f"stage{i}_down")(x)
            for j in range(1, depth + 1):
                x = Block(
                    self.kernel,
                    self.ratio,
                    next(rates),
                    self.layer_scale,
                    self.fusion,
                    self.dtype,
                    name=f"stage{i}_block{j}",
                )(x, train)
            normed = self.norms == "all" or (self.norms == "last" and i == stages)
            norm = LayerNorm(EPSILON, dtype=self.dtype, name=f"stage{i}_norm") if normed else None
            maps.append(norm(x) if normed else x)
        return Features(tuple(maps), strides, tuple(self.widths))
