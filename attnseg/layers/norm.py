"""Normalisation with the constants of the code whose weights people load."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.batch_norm import batch_norm
from attnseg.ops.layer_norm import layer_norm

CONSTANTS = "constants"  # collection of untrained numbers that travel with loaded weights


class LayerNorm(nn.Module):
    """Layer normalisation over channels, computed in float32.

    Implementations of one network disagree on epsilon. A loaded checkpoint therefore brings its
    own in the collection ``constants``, which goes before the field.
    """

    epsilon: float = 1e-5
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises [... c] over c."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        epsilon = self.get_variable(CONSTANTS, "epsilon", self.epsilon)
        return layer_norm(x, scale, bias, epsilon).astype(self.dtype or x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, statistics in float32.

    The running variance is the unbiased one, as in torch; flax keeps the biased one. `momentum`
    is the weight of the new batch (torch's convention, 0.1), the complement of flax's.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, shift: Array | None = None) -> Array:
        """Normalises [... c].

        `shift` [c] stands for a constant added to `x` beforehand. Batch statistics cancel it, so
        in training it only moves the running mean, and its gradient is exactly zero.
        """
        features = x.shape[-1]
        scale = self.param("scale", self.scale_init, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        shift = jnp.zeros_like(bias) if shift is None else shift
        dtype = self.dtype or x.dtype
        if not train:
            factor = jax.lax.rsqrt(var.value + self.epsilon) * scale
            y = (x.astype(jnp.float32) - (mean.value - shift)) * factor + bias
            return y.astype(dtype)
        y, batch_mean, batch_var = batch_norm(x, scale, bias, self.epsilon, dtype)
        if not self.is_initializing():
            count = x.size // features
            unbiased = batch_var * (count / max(count - 1, 1))
            moved = jax.lax.stop_gradient(batch_mean + shift)
            mean.value += self.momentum * (moved - mean.value)
            var.value += self.momentum * (unbiased - var.value)
        return y


# The two-pass variance: E[x^2] - E[x]^2 loses digits where the mean is large.
GroupNorm = functools.partial(nn.GroupNorm, epsilon=1e-5, use_fast_variance=False)
