"""``x + gelu(depthwise(x) + bias)``, with its own gradient on a CPU.

Where `x` comes from GELU, as in Conv2Former's FFN, XLA writes two maps, GELU's result before its
final choice and the padded `x`, and reads both, and GELU's input, for the sum. Here only the padded
map is written; its middle is `x`. The backward pass computes the convolution again rather than keep
it; in float32 it writes the gradient of that padded only. Other platforms run the composition.
"""

from __future__ import annotations

import jax
from jax import Array

from attnseg.ops.activation import gelu, gelu_slope
from attnseg.ops.channels import add_bias, sum_over_pixels
from attnseg.ops.depthwise import (
    depthwise_conv,
    kernel_gradient_of,
    pad_for_gradient,
    sum_of_taps,
)
from attnseg.ops.platforms import is_plain
from attnseg.ops.resize import is_static


def residual_depthwise(x: Array, kernel: Array, bias: Array) -> Array:
    """``x + gelu(depthwise_conv(x, kernel) + bias)``.

    Args:
      x: [n h w c].
      kernel: [kh kw 1 c] with odd kh and kw; made for 3x3.
      bias: [c].

    Returns:
      [n h w c], in the dtype of `x` and `kernel`.
    """
    if is_plain() or not is_static(*x.shape[1:3]):
        return _composed(x, kernel, bias)
    # The choice is outside of the gradients, since what they keep differs.
    return jax.lax.platform_dependent(x, kernel, bias, cpu=_own, default=_composed)


def _composed(x: Array, kernel: Array, bias: Array) -> Array:
    return x + gelu(add_bias(depthwise_conv(x, kernel), bias))


def _forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    h, w = x.shape[1:3]
    top, left = (side // 2 for side in kernel.shape[:2])
    # Without the barrier XLA takes the middle from `x`, and writes that out as well.
    padded = jax.lax.optimization_barrier(pad_for_gradient(x, kernel))
    moved = add_bias(sum_of_taps(padded, kernel, h, w), bias)
    return padded[:, top : top + h, left : left + w] + gelu(moved), (padded, kernel, bias)


@jax.custom_vjp
def _own(x: Array, kernel: Array, bias: Array) -> Array:
    return _forward(x, kernel, bias)[0]


def _backward(kept: tuple[Array, ...], grad: Array) -> tuple[Array, Array, Array]:
    padded, kernel, bias = kept
    h, w = grad.shape[1:3]
    moved = add_bias(sum_of_taps(padded, kernel, h, w), bias)
    inner = pad_for_gradient(grad * gelu_slope(moved), kernel)
    of_x = grad + sum_of_taps(inner, kernel[::-1, ::-1], h, w)
    of_kernel = kernel_gradient_of(padded, inner, kernel, h, w)
    return of_x, of_kernel, sum_over_pixels(inner, bias)


_own.defvjp(_forward, _backward)
