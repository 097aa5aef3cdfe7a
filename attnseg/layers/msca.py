"""Multi-scale convolutional attention, SegNeXt's block (arXiv:2209.08575, section 3.1)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.layers.conv import DepthwiseConv, Linear, conv_init
from attnseg.layers.drop import DropPath
from attnseg.layers.norm import BatchNorm
from attnseg.layers.record import record, strength
from attnseg.ops.activation import gelu
from attnseg.ops.channels import scale_channels

LOCAL = 5  # side of the convolution that gathers local information
STRIPS = (7, 11, 21)  # sides of the square kernels that pairs of strips stand for
LAYER_SCALE = 1e-2

# The reference's 1x1 convolutions start like its other convolutions, normal by fan-out.
pointwise = functools.partial(Linear, kernel_init=conv_init)


class StripConv(nn.Module):
    """A 1 x `side` and a `side` x 1 depthwise convolution in place of a square one."""

    side: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        x = DepthwiseConv((1, self.side), self.dtype, name="row")(x)
        return DepthwiseConv((self.side, 1), self.dtype, name="column")(x)


class MSCAGate(nn.Module):
    """Attention from convolutions of several sizes, multiplied with the input (eq. 1, 2)."""

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        local = DepthwiseConv((LOCAL, LOCAL), self.dtype, name="local")(x)
        strips = [StripConv(side, self.dtype, name=f"strip{side}")(local) for side in STRIPS]
        gate = pointwise(x.shape[-1], dtype=self.dtype, name="mix")(local + sum(strips))
        record(self, lambda: strength(gate, "gate"))
        return gate * x


class MSCA(nn.Module):
    """The gate between two linear maps, with its own skip connection."""

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        y = gelu(pointwise(x.shape[-1], dtype=self.dtype, name="in")(x))
        y = MSCAGate(self.dtype, name="gate")(y)
        return x + pointwise(x.shape[-1], dtype=self.dtype, name="out")(y)


class ConvFFN(nn.Module):
    """Feed-forward with a 3x3 depthwise convolution before the activation."""

    ratio: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        c = x.shape[-1]
        x = pointwise(c * self.ratio, dtype=self.dtype, name="expand")(x)
        x = gelu(DepthwiseConv(dtype=self.dtype, name="depthwise")(x))
        return pointwise(c, dtype=self.dtype, name="project")(x)


class MSCANBlock(nn.Module):
    """Pre-norm residual block with BatchNorm and scaled branches: MSCA, then feed-forward."""

    ratio: int
    drop_path: float = 0.0
    dtype: jnp.dtype | None = None

    def _branch(self, x: Array, index: int, module: nn.Module, train: bool) -> Array:
        y = module(BatchNorm(dtype=self.dtype, name=f"norm{index}")(x, train=train))
        init = nn.initializers.constant(LAYER_SCALE)
        scale = self.param(f"layer_scale{index}", init, (x.shape[-1],), jnp.float32)
        y = scale_channels(y, scale)
        return x + DropPath(self.drop_path, name=f"drop{index}")(y, train=train)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[n h w c] -> [n h w c]."""
        x = self._branch(x, 1, MSCA(self.dtype, name="attention"), train)
        return self._branch(x, 2, ConvFFN(self.ratio, self.dtype, name="ffn"), train)
