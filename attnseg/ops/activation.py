"""Activations as the reference code has them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.platforms import is_plain

_NOTHING = -40.0  # GELU is zero there in every precision: 1 + erf(x / sqrt(2)) is

# GELU's slope is 1/2 + x times a quotient of polynomials in x^2, lowest powers first, fitted so
# that the slope is off by 2e-8 at most, 2.5e-7 with float32's rounding. From |x| = 5.75 on it stays
# as it is there, within 1.5e-7 of 0 or 1.
_SLOPE_END = 5.75
_SLOPE_TOP = (
    *(7.978846990e-01, -4.428718561e-02, 1.463121601e-02, -1.934922028e-04),
    *(3.261892925e-05, -1.747951189e-07, 3.563900445e-09, -1.994281601e-11),
)
_SLOPE_BOTTOM = (
    *(1.0, 2.778290961e-01, 3.594336391e-02),
    *(2.810673146e-03, 1.397966952e-04, 4.814117235e-06),
)


def gelu(x: Array) -> Array:
    """Exact GELU through erf; `jax.nn.gelu` takes erfc, twice the work for no digit more here.

    Its gradient keeps one map, the slope; JAX's own keeps five and a mask.
    """
    return _gelu_value(x) if is_plain() else _gelu(x)


def _gelu_value(x: Array) -> Array:
    value = x * _normal_cdf(x)
    # The choice changes no value. Without it XLA, on a CPU, draws GELU into a product that follows,
    # and writes out its constants as maps for that.
    return jnp.where(x < _NOTHING, 0, value)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


_gelu = jax.custom_vjp(_gelu_value)


def gelu_slope(x: Array) -> Array:
    """Derivative of `gelu`."""
    if x.dtype != jnp.float32:
        density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
        return _normal_cdf(x) + x * density
    # Measured on a CPU: half the time of an exponential and erf.
    x = jnp.clip(x, -_SLOPE_END, _SLOPE_END)
    square = x * x
    return 0.5 + x * _polynomial(_SLOPE_TOP, square) / _polynomial(_SLOPE_BOTTOM, square)


def _polynomial(constants: Sequence[float], x: Array) -> Array:
    """Horner's scheme, `constants` from the lowest power on."""
    return functools.reduce(lambda value, constant: value * x + constant, reversed(constants))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return _gelu_value(x), gelu_slope(x)


def _gelu_backward(slope: Array, gradient: Array) -> tuple[Array]:
    return (gradient * slope,)


_gelu.defvjp(_gelu_forward, _gelu_backward)


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
