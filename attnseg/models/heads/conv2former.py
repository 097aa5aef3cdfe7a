"""Conv2Former's classifier: a wide layer before the mean over pixels (arXiv:2211.11943)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv import Linear
from attnseg.layers.conv_modulation import EPSILON
from attnseg.layers.norm import LayerNorm
from attnseg.ops.activation import gelu


class Conv2FormerHead(nn.Module):
    """1x1 convolution, GELU and LayerNorm per pixel, then the mean and a linear map."""

    num_classes: int
    width: int = 1280
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n k]."""
        x = gelu(Linear(self.width, dtype=self.dtype, name="expand")(features.maps[-1]))
        x = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return Linear(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
