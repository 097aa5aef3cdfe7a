"""Expectation-maximisation attention (EMANet, arXiv:1907.13426, section 3)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from attnseg.layers.record import MapsRecord, record

_einsum = functools.partial(jnp.einsum, precision="highest")


def _unit(x: Array, axis: int) -> Array:
    """Scales to unit length along `axis`; a zero vector stays zero."""
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
    return x / jnp.maximum(length, 1e-12)


class EMAttention(nn.Module):
    """Rebuilds a map from a few bases found by EM, in float32.

    The bases start each forward pass from a running mean (collection ``batch_stats``), moved in
    training towards the mean over the batch. No gradient passes the iterations, in the paper and
    in the published code, so none reaches `x`.
    """

    bases: int = 64
    stages: int = 3
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w c] in the dtype of `x`, without gradient."""
        n, h, w, c = x.shape

        def initial() -> Array:
            # Their length does not matter: unit vectors in random directions.
            return _unit(jax.random.normal(self.make_rng("params"), (c, self.bases)), 0)

        running = self.variable("batch_stats", "bases", initial)
        pixels = jax.lax.stop_gradient(x).astype(jnp.float32).reshape(n, h * w, c)
        bases = jnp.broadcast_to(running.value, (n, c, self.bases))
        for _ in range(self.stages):
            # E: responsibilities of the bases for each pixel; M: weighted means of the pixels.
            shares = jax.nn.softmax(_einsum("nlc,nck->nlk", pixels, bases), axis=-1)
            weights = shares / jnp.maximum(shares.sum(1, keepdims=True), 1e-12)
            bases = _unit(_einsum("nlc,nlk->nck", pixels, weights), 1)
        if train and not self.is_initializing():
            mean = _unit(bases.mean(0), 0)
            running.value += self.momentum * (mean - running.value)
        record(self, lambda: MapsRecord(shares.reshape(n, h, w, self.bases), "basis"))
        rebuilt = _einsum("nlk,nck->nlc", shares, bases)
        return rebuilt.reshape(n, h, w, c).astype(x.dtype)
