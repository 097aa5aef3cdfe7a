"""Linear maps and convolutions with explicit padding and the papers' initialisers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.channels import add_bias
from attnseg.ops.conv3x3 import conv3x3
from attnseg.ops.depthwise import depthwise_conv
from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.linear import linear_map
from attnseg.ops.residual_depthwise import residual_depthwise
from attnseg.ops.strided_conv import strided_conv

# torch's `trunc_normal_(std=0.02)` cuts at +-2, a hundred deviations: in effect it never cuts.
linear_init = nn.initializers.normal(0.02)
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Linear(nn.Module):
    """Linear map of the last axis."""

    features: int
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = linear_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[... c] -> [... features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = linear_map(x, kernel)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))


def depthwise_init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Normal by fan-out for a kernel [kh kw 1 c] with c groups: variance 2 / (kh kw)."""
    return jax.random.normal(key, shape, dtype) * (2.0 / (shape[0] * shape[1])) ** 0.5


def _convolution(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """[n h w c] * [k k c o] -> [n ceil(h/stride) ceil(w/stride) o] for odd k."""
    side = kernel.shape[0]
    # As a convolution, the gradient of a 1x1 kernel transposes both maps on a CPU.
    if side == 1:
        return linear_map(x[:, ::stride, ::stride], kernel[0, 0])
    if side == 3 and stride == 1:
        return conv3x3(x, kernel, dilation)
    if stride > 1 and dilation == 1 and side % 2:
        return strided_conv(x, kernel, stride)
    return direct_conv(x, kernel, stride=stride, dilation=dilation)


class Conv(nn.Module):
    """Square convolution padded alike on every side (SAME would be lopsided)."""

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = conv_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n ceil(h/stride) ceil(w/stride) features] for an odd kernel."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = _convolution(x, kernel, self.stride, self.dilation)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))


class PatchConv(nn.Module):
    """Convolution whose stride is its kernel: one linear map of non-overlapping patches.

    Rows and columns that do not fill a patch are dropped, as a convolution without padding does.
    """

    features: int
    patch: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h//patch w//patch features]."""
        n, h, w, c = x.shape
        p = self.patch
        rows, columns = h // p, w // p
        kernel = self.param("kernel", conv_init, (p, p, c, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        x = x[:, : rows * p, : columns * p].reshape(n, rows, p, columns, p, c)
        return add_bias(jnp.einsum("nhiwjc,ijco->nhwo", x, kernel), bias)


class DepthwiseConv(nn.Module):
    """Depthwise convolution with bias, stride 1, that keeps the grid.

    `residual`: ``x + gelu(convolution + bias)`` in place of convolution and bias.
    """

    kernel: tuple[int, int] = (3, 3)
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = depthwise_init
    residual: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c]."""
        c = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (*self.kernel, 1, c), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.residual:
            return residual_depthwise(x, kernel, bias)
        return add_bias(depthwise_conv(x, kernel), bias)


class KeyLinear(nn.Module):
    """Projection to attention keys whose bias is kept but never computed with.

    A key bias adds the same number to all logits of a query, which softmax removes. Leaving it
    out gives the same output and a gradient of exactly zero; computing with it gives rounding
    noise that Adam would turn into full-sized steps. It stays a parameter because every
    published checkpoint has one.
    """

    features: int
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = linear_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[... c] -> [... features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return linear_map(x, kernel)
