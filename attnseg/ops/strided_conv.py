"""Convolution with a stride, with its own gradients on a CPU for kernels up to 3x3.

XLA takes the gradient of the kernel for a convolution whose kernel is as large as the map, and that
of the pixels for one of a map full of zeros. As products with the taps, the pixels that each
element of the kernel meets, both are plain matrix products of the size of the convolution. With
stride 2 the taps of a 3x3 kernel are two and a quarter times the map.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.platforms import by_platform, is_plain

_TAPS = 9  # elements of the largest kernel whose taps are written out


def strided_conv(x: Array, kernel: Array, stride: int) -> Array:
    """[n h w c] * [k k c o] -> [n ceil(h/stride) ceil(w/stride) o], k//2 zeros around the map.

    k is odd.
    """
    if is_plain():
        return direct_conv(x, kernel, stride=stride)
    return _strided_conv(x, kernel, stride)


def _convolution(x: Array, kernel: Array, *, stride: int, platform: str) -> Array:
    y = direct_conv(x, kernel, stride=stride)
    if platform == "cpu":
        # Changes no value. Without it XLA draws the convolution into a LayerNorm that follows, and
        # has it done by a library that keeps a convolution of few channels to one thread.
        y = jnp.where(y > jnp.finfo(y.dtype).max, jnp.inf, y)
    return y


def _taps(x: Array, side: int, stride: int) -> Array:
    """What each element of the kernel meets.

    [n h w c] -> [n ceil(h/stride) ceil(w/stride) side*side*c]
    """
    h, w = (stride * (-(-size // stride) - 1) + 1 for size in x.shape[1:3])
    x = jnp.pad(x, [(0, 0), *[(side // 2,) * 2] * 2, (0, 0)])
    return jnp.concatenate(
        [x[:, i : i + h : stride, j : j + w : stride] for i in range(side) for j in range(side)],
        axis=-1,
    )


def _gradients(x: Array, kernel: Array, grad: Array, *, stride: int, platform: str):
    side, _, c, o = kernel.shape
    if platform != "cpu" or side**2 > _TAPS or x.dtype != jnp.float32:
        return jax.vjp(lambda *args: direct_conv(*args, stride=stride), x, kernel)[1](grad)
    taps, back = jax.vjp(lambda x: _taps(x, side, stride), x)
    pixels = grad.reshape(-1, o)
    of_kernel = (taps.reshape(-1, side**2 * c).T @ pixels).reshape(kernel.shape)
    of_taps = pixels @ kernel.reshape(-1, o).T
    return *back(of_taps.reshape(taps.shape)), of_kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _strided_conv(x: Array, kernel: Array, stride: int) -> Array:
    return by_platform(functools.partial(_convolution, stride=stride), x, kernel)


def _forward(x: Array, kernel: Array, stride: int):
    return _strided_conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    return by_platform(functools.partial(_gradients, stride=stride), *kept, grad)


_strided_conv.defvjp(_forward, _backward)
