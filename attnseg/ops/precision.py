"""The precision that sums are kept in."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def accumulator(x: Array) -> jnp.dtype:
    """The dtype of sums over `x`: its own, float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def einsum(subscripts: str, a: Array, b: Array) -> Array:
    """`jnp.einsum` of two arrays, in `accumulator(a)`."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=accumulator(a))
