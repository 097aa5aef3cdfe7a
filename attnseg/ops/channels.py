"""Numbers that pixels share, added to a map or multiplied with it; gradients summed in float32.

JAX's own gradients of such numbers add up the pixels in the map's dtype. In bfloat16, whose numbers
have eight bits, the sums are then 5 to 27 % off on a CPU, for maps of 56x56 to 128x128.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.platforms import is_plain
from attnseg.ops.precision import accumulator


def _wide(x: Array) -> Array:
    return x.astype(accumulator(x))


def sum_over_pixels(x: Array, like: Array) -> Array:
    """Sum over the axes in front of those of `like`, in float32 at least, then in its dtype."""
    return jnp.sum(_wide(x), tuple(range(x.ndim - like.ndim))).astype(like.dtype)


def _add(x: Array, bias: Array) -> Array:
    return x + bias.astype(x.dtype)


def _add_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    return _add(x, bias), bias


def _add_backward(bias: Array, grad: Array) -> tuple[Array, Array]:
    return grad, sum_over_pixels(grad, bias)


_own_add = jax.custom_vjp(_add)
_own_add.defvjp(_add_forward, _add_backward)


def add_bias(x: Array, bias: Array) -> Array:
    """[... c] + [c]: [... c], in the dtype of `x`. `bias` may have more of the last axes."""
    return (_add if is_plain() else _own_add)(x, bias)


def _scale(x: Array, factors: Array) -> Array:
    return x * factors.astype(x.dtype)


def _scale_forward(x: Array, factors: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scale(x, factors), (x, factors)


def _scale_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, factors = kept
    return _scale(grad, factors), sum_over_pixels(_wide(grad) * _wide(x), factors)


_own_scale = jax.custom_vjp(_scale)
_own_scale.defvjp(_scale_forward, _scale_backward)


def scale_channels(x: Array, factors: Array) -> Array:
    """[... c] * [c]: [... c], in the dtype of `x`; also one factor [] for all channels."""
    return (_scale if is_plain() else _own_scale)(x, factors)
