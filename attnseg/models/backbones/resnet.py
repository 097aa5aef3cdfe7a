"""Residual networks (arXiv:1512.03385) with the stems and dilations that segmentation uses.

Stride lies on the 3x3 convolution ("style pytorch"). Stem ``deep`` is three 3x3 convolutions
(ResNet-C, arXiv:1812.01187 fig. 2), ``tiered`` the same with a narrower first one (timm); with
`pooled_shortcut` strided shortcuts average first (ResNet-D). Dilated networks keep the third and
fourth stage at the grid of the second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check, lookup
from attnseg.core.types import Features
from attnseg.layers.conv import Conv
from attnseg.layers.norm import BatchNorm
from attnseg.ops.activation import relu
from attnseg.ops.pooling import average_patches, max_pool

SIZES = {
    "resnet18": dict(depths=(2, 2, 2, 2), block="basic"),
    "resnet34": dict(depths=(3, 4, 6, 3), block="basic"),
    "resnet50": dict(depths=(3, 4, 6, 3)),
    "resnet101": dict(depths=(3, 4, 23, 3)),
    "resnet152": dict(depths=(3, 8, 36, 3)),
}


class Grid(NamedTuple):
    """Stride of a stage, dilation of its first block and of the others."""

    stride: int
    first: int
    rest: int


PATTERNS = {
    "os32": (Grid(1, 1, 1), Grid(2, 1, 1), Grid(2, 1, 1), Grid(2, 1, 1)),
    # The last stage keeps its grid, undilated: BoTNet's S1.
    "s1": (Grid(1, 1, 1), Grid(2, 1, 1), Grid(2, 1, 1), Grid(1, 1, 1)),
    "os16": (Grid(1, 1, 1), Grid(2, 1, 1), Grid(2, 1, 1), Grid(1, 1, 2)),
    # The first block keeps the dilation of the stage before: mmseg, torchvision, timm.
    "os8": (Grid(1, 1, 1), Grid(2, 1, 1), Grid(1, 1, 2), Grid(1, 2, 4)),
    # All blocks of a stage alike: the official CCNet, PaddleSeg.
    "os8_constant": (Grid(1, 1, 1), Grid(2, 1, 1), Grid(1, 2, 2), Grid(1, 4, 4)),
    # Of the CCNet post, whose second stage keeps the first one's grid.
    "post": (Grid(1, 2, 2), Grid(1, 2, 2), Grid(2, 2, 4), Grid(1, 4, 4)),
}

# (features, stride, dilation, dtype, name) -> the module that mixes pixels within a block.
Mixer = Callable[..., nn.Module]
conv3x3 = functools.partial(Conv, kernel=3, use_bias=False)
conv1x1 = functools.partial(Conv, kernel=1, use_bias=False)


class Shortcut(nn.Module):
    """Projection of the identity to another width or grid."""

    features: int
    stride: int
    pooled: bool
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h/stride w/stride features]."""
        s = self.stride
        if self.pooled and s > 1:
            # torch's ceil_mode: a last, incomplete window averages what it has.
            fill = [(0, -side % s) for side in x.shape[1:3]]
            x = average_patches(x, s, fill)
            s = 1
        x = conv1x1(self.features, stride=s, dtype=self.dtype, name="conv")(x)
        return BatchNorm(dtype=self.dtype, name="norm")(x, train=train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with its own dilation."""

    width: int
    stride: int
    dilation: tuple[int, int]
    project: bool
    pooled_shortcut: bool
    mixer: Mixer
    zero_init: bool
    dtype: jnp.dtype | None = None

    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h/stride w/stride width]."""
        y = conv3x3(
            self.width,
            stride=self.stride,
            dilation=self.dilation[0],
            dtype=self.dtype,
            name="conv1",
        )(x)
        y = relu(BatchNorm(dtype=self.dtype, name="norm1")(y, train=train))
        y = self.mixer(
            self.width, stride=1, dilation=self.dilation[1], dtype=self.dtype, name="conv2"
        )(y)
        y = _last_norm(self.zero_init, self.dtype, "norm2")(y, train=train)
        if self.project:
            x = Shortcut(
                self.width, self.stride, self.pooled_shortcut, self.dtype, name="shortcut"
            )(x, train=train)
        return relu(x + y)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up."""

    width: int
    stride: int
    dilation: tuple[int, int]
    project: bool
    pooled_shortcut: bool
    mixer: Mixer
    zero_init: bool
    dtype: jnp.dtype | None = None

    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h/stride w/stride 4*width]."""
        y = conv1x1(self.width, dtype=self.dtype, name="conv1")(x)
        y = relu(BatchNorm(dtype=self.dtype, name="norm1")(y, train=train))
        y = self.mixer(
            self.width,
            stride=self.stride,
            dilation=self.dilation[0],
            dtype=self.dtype,
            name="conv2",
        )(y)
        y = relu(BatchNorm(dtype=self.dtype, name="norm2")(y, train=train))
        y = conv1x1(4 * self.width, dtype=self.dtype, name="conv3")(y)
        y = _last_norm(self.zero_init, self.dtype, "norm3")(y, train=train)
        if self.project:
            x = Shortcut(
                4 * self.width, self.stride, self.pooled_shortcut, self.dtype, name="shortcut"
            )(x, train=train)
        return relu(x + y)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _last_norm(zero_init: bool, dtype: jnp.dtype | None, name: str) -> BatchNorm:
    """The norm that closes a residual branch; at zero each block starts as the identity."""
    init = nn.initializers.zeros if zero_init else nn.initializers.ones
    return BatchNorm(scale_init=init, dtype=dtype, name=name)


# (width of the stem) -> (features, kernel, stride) of its convolutions.
STEMS = {
    "plain": lambda c: [(c, 7, 2)],
    "deep": lambda c: [(c // 2, 3, 2), (c // 2, 3, 1), (c, 3, 1)],
    "tiered": lambda c: [(3 * c // 8, 3, 2), (c // 2, 3, 1), (c, 3, 1)],
}


class Stem(nn.Module):
    """To a quarter of the grid: 7x7 or three 3x3 convolutions, then max pooling."""

    width: int
    kind: str
    ceil: bool
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w 3] -> [n h/4 w/4 width]."""
        for i, (width, size, stride) in enumerate(STEMS[self.kind](self.width)):
            x = Conv(width, size, stride, use_bias=False, dtype=self.dtype, name=f"conv{i + 1}")(x)
            x = relu(BatchNorm(dtype=self.dtype, name=f"norm{i + 1}")(x, train=train))
        # Rounding up, the last window may reach one row beyond the padding.
        extra = [int(self.ceil and side % 2 == 0) for side in x.shape[1:3]]
        return max_pool(x, 3, 2, [(1, 1 + e) for e in extra])


class ResNet(nn.Module):
    """Residual network: four stages; `dilation` names a row of `PATTERNS`."""

    depths: tuple[int, ...]
    block: str = "bottleneck"
    width: int = 64  # of the first stage's 3x3 convolutions; doubles with each stage
    stem: str = "plain"  # plain: 7x7; deep, tiered: three 3x3
    stem_width: int | None = None  # None: `width`
    stem_ceil: bool = False  # round the max-pooled grid up, as the official CCNet does
    pooled_shortcut: bool = False  # ResNet-D
    dilation: str = "os32"
    dilate_both: bool = False  # both convolutions of a basic block, as timm does
    zero_init: bool = True  # residual branches start at zero (arXiv:1706.02677, section 5.1)
    remat: bool = False  # recompute each block in the backward pass to save memory
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.depths) == 4, f"resnet: depths={self.depths} need one value per stage, 4.")
        lookup(STEMS, self.stem, "resnet stem")
        lookup(BLOCKS, self.block, "resnet block")
        lookup(PATTERNS, self.dilation, "resnet dilation")

    def mixer(self, stage: int, block: int) -> Mixer:
        """What mixes pixels in a block of a stage (both from 1): a 3x3 convolution."""
        del stage, block
        return conv3x3

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Features:
        """Normalised images [n h w 3] -> features of the four stages, strides 4 to 32 or less."""
        Block = BLOCKS[self.block]
        expansion = Block.expansion
        Block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        stem_width = self.stem_width or self.width
        x = Stem(stem_width, self.stem, self.stem_ceil, self.dtype, name="stem")(x, train=train)
        stride, strides, maps = 4, [], []
        for i, (depth, grid) in enumerate(zip(self.depths, PATTERNS[self.dilation], strict=True)):
            width = self.width * 2**i
            for j in range(depth):
                step, dilation = (grid.stride, grid.first) if j == 0 else (1, grid.rest)
                x = Block(
                    width,
                    step,
                    (dilation, grid.rest if self.dilate_both else 1),
                    project=step != 1 or x.shape[-1] != expansion * width,
                    pooled_shortcut=self.pooled_shortcut,
                    mixer=self.mixer(i + 1, j + 1),
                    zero_init=self.zero_init,
                    dtype=self.dtype,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
            stride *= grid.stride
            strides.append(stride)
            maps.append(x)
        return Features(tuple(maps), tuple(strides), tuple(m.shape[-1] for m in maps))
