"""Dropout over whole residual branches and over whole channels."""

from __future__ import annotations

import flax.linen as nn
import jax
from jax import Array


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for a whole example."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Zeroes examples of [n ...] with probability `rate` and rescales the others."""
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return x * (kept.astype(x.dtype) / keep)


class ChannelDropout(nn.Module):
    """Drops whole channels of an example, torch's Dropout2d."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Zeroes channels of [n h w c] with probability `rate` and rescales the others."""
        return nn.Dropout(self.rate, broadcast_dims=(1, 2))(x, deterministic=not train)
