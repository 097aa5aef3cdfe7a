"""Activations as the reference code has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.platforms import is_plain

_NOTHING = -40.0  # GELU is zero there in every precision: 1 + erf(x / sqrt(2)) is


def gelu(x: Array) -> Array:
    """Exact GELU through erf; `jax.nn.gelu` takes erfc, twice the work for no digit more here.

    The choice changes no value. Without it XLA, on a CPU, draws GELU into a product that follows,
    and writes out its constants as maps for that.
    """
    value = 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))
    return jnp.where(x < _NOTHING, 0, value)


def relu(x: Array) -> Array:
    """max(x, 0), with gradient 0 at 0.

    `jax.nn.relu` computes the same. XLA, on a CPU, takes its maximum for cheap enough to compute
    again wherever the result is used, and with it the sum before it: in a residual network the sums
    of all blocks before. A choice it keeps, and the gradient here looks at the result alone.
    """
    return jax.nn.relu(x) if is_plain() else _relu(x)


@jax.custom_vjp
def _relu(x: Array) -> Array:
    return jnp.where(x < 0, 0, x)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = _relu(x)
    return y, y


def _relu_backward(y: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, 0),)


_relu.defvjp(_relu_forward, _relu_backward)
