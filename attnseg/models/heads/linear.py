"""Linear classifier on the mean of the coarsest map."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv import Linear


class LinearHead(nn.Module):
    """Global average pooling and a linear map."""

    num_classes: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n k]."""
        x = jnp.mean(features.maps[-1].astype(jnp.float32), axis=(1, 2))
        return Linear(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
