"""Non-local head (arXiv:1711.07971) in mmsegmentation's form."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.nonlocal_attention import NonLocal2d
from attnseg.models.heads.common import classify, stage_map


class NonLocalHead(nn.Module):
    """A non-local block between two convolutions, fused with the map that went in."""

    num_classes: int
    width: int = 512
    reduction: int = 2
    use_scale: bool = True
    mode: str = "embedded_gaussian"  # or dot_product, gaussian: see NonLocal2d
    stage: int = -1
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the stage."""
        x = stage_map(features, self.stage)
        y = ConvNorm(self.width, 3, dtype=self.dtype, name="conv1")(x, train=train)
        y = NonLocal2d(self.reduction, self.use_scale, self.mode, self.dtype, name="attention")(
            y, train=train
        )
        y = ConvNorm(self.width, 3, dtype=self.dtype, name="conv2")(y, train=train)
        y = jnp.concatenate([x.astype(y.dtype), y], axis=-1)
        y = ConvNorm(self.width, 3, dtype=self.dtype, name="fuse")(y, train=train)
        return classify(y, self.num_classes, self.dropout, train=train, dtype=self.dtype)
