"""Normalisation by the statistics of a batch, with its own gradient.

Differentiated by JAX, batch normalisation keeps the centred and the normalised map in float32. The
closed form (arXiv:1502.03167, section 3) needs the input, in the precision that it came in, and two
sums over it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, dtype: jnp.dtype
) -> tuple[Array, Array, Array]:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over all axes but the last.

    Args:
      x: [... c].
      scale, bias: [c], float32.
      epsilon: added to the variance.
      dtype: of the result; statistics and the arithmetic are float32.

    Returns:
      The result [... c], and mean and variance (biased) [c], which have no gradient.
    """
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float, dtype: jnp.dtype):
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = jnp.mean(wide, axes)
    variance = jnp.mean(jnp.square(wide - mean), axes)  # E[x^2] - E[x]^2 would lose digits
    factor = jax.lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (factor * scale) + bias
    return (y.astype(dtype), mean, variance), (x, mean, factor, scale)


def _backward(epsilon: float, dtype: jnp.dtype, kept: tuple[Array, ...], grads: tuple[Array, ...]):
    x, mean, factor, scale = kept
    grad = grads[0].astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    # Barriers of different arrays, so that XLA centres the map in each pass over it, forwards and
    # backwards, and does not write it out once for all of them.
    seen, centre = jax.lax.optimization_barrier((x, mean))
    bias_grad = jnp.sum(grad, axes)
    scale_grad = jnp.sum(grad * (seen.astype(jnp.float32) - centre), axes) * factor
    seen, centre, factor = jax.lax.optimization_barrier((x, mean, factor))
    normal = (seen.astype(jnp.float32) - centre) * factor
    x_grad = (grad - bias_grad / count - normal * (scale_grad / count)) * (factor * scale)
    return x_grad.astype(x.dtype), scale_grad, bias_grad


batch_norm.defvjp(_forward, _backward)
