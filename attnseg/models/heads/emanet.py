"""Expectation-maximisation attention head (EMANet, arXiv:1907.13426)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv import Linear, conv_init
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.em_attention import EMAttention
from attnseg.models.heads.common import classify, stage_map
from attnseg.ops.activation import relu


class EMANetHead(nn.Module):
    """A residual EM attention between convolutions, fused with the map that went in.

    The matrix "mid" spreads the non-negative map over both signs. It keeps its random values: no
    gradient passes EM. Exempt it from weight decay, which would shrink it.
    """

    num_classes: int
    width: int = 256
    ema_width: int = 512
    bases: int = 64
    stages: int = 3  # EM iterations
    momentum: float = 0.1  # weight of the new batch in the running bases
    stage: int = -1
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the stage."""
        x = stage_map(features, self.stage)
        identity = ConvNorm(self.ema_width, 3, dtype=self.dtype, name="in")(x, train=train)
        y = Linear(self.ema_width, kernel_init=conv_init, dtype=self.dtype, name="mid")(identity)
        y = EMAttention(self.bases, self.stages, self.momentum, name="attention")(y, train=train)
        y = ConvNorm(self.ema_width, activation=None, dtype=self.dtype, name="out")(
            relu(y), train=train
        )
        y = relu(identity + y)
        y = ConvNorm(self.width, 3, dtype=self.dtype, name="bottleneck")(y, train=train)
        y = jnp.concatenate([x.astype(y.dtype), y], axis=-1)
        y = ConvNorm(self.width, 3, dtype=self.dtype, name="fuse")(y, train=train)
        return classify(y, self.num_classes, self.dropout, train=train, dtype=self.dtype)
