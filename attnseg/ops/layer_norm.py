"""Layer normalisation (arXiv:1607.06450), with its own gradient.

Differentiated by JAX it keeps the centred map in float32; the closed form needs the input, in the
precision that it came in, and two numbers a pixel. On a CPU its means over channels are products
with a column: XLA's reductions of short rows take several times as long.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.platforms import by_platform, is_plain


def _forward(x: Array, scale: Array, bias: Array, epsilon: Array | float):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    factor = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * (factor * scale) + bias, (x, mean, factor, scale, epsilon)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: Array | float) -> Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the last axis, in float32.

    Args:
      x: [... c].
      scale, bias: [c], float32.
      epsilon: added to the variance (biased); has no gradient.

    Returns:
      [... c], float32.
    """
    return (_value if is_plain() else _layer_norm)(x, scale, bias, epsilon)


def _value(x: Array, scale: Array, bias: Array, epsilon: Array | float) -> Array:
    return _forward(x, scale, bias, epsilon)[0]


def _weighted_mean(x: Array, weights: Array, *, platform: str) -> Array:
    """Mean of x * weights over channels: [r c], [c] -> [r 1]."""
    if platform == "cpu":
        return x @ (weights / x.shape[-1])[:, None]
    return jnp.mean(x * weights, axis=-1, keepdims=True)


def _backward(kept: tuple[Array, ...], grad: Array):
    x, mean, factor, scale, epsilon = kept
    c = x.shape[-1]
    grad, mean, factor = grad.reshape(-1, c), mean.reshape(-1, 1), factor.reshape(-1, 1)
    normal = (x.reshape(-1, c).astype(jnp.float32) - mean) * factor
    along = by_platform(_weighted_mean, grad * normal, scale)
    x_grad = (grad * scale - by_platform(_weighted_mean, grad, scale) - normal * along) * factor
    scale_grad, bias_grad = jnp.sum(grad * normal, 0), jnp.sum(grad, 0)
    nothing = jnp.zeros_like(epsilon)
    return x_grad.reshape(x.shape).astype(x.dtype), scale_grad, bias_grad, nothing


_layer_norm = jax.custom_vjp(_value)
_layer_norm.defvjp(_forward, _backward)
