"""Activations as the reference code has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

_NOTHING = -40.0  # GELU is zero there in every precision: 1 + erf(x / sqrt(2)) is


def gelu(x: Array) -> Array:
    """Exact GELU through erf; `jax.nn.gelu` takes erfc, twice the work for no digit more here.

    The choice changes no value. Without it XLA, on a CPU, draws GELU into a product that follows,
    and writes out its constants as maps for that.
    """
    value = 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))
    return jnp.where(x < _NOTHING, 0, value)
