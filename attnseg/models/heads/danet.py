"""Dual attention head (DANet, arXiv:1809.02983)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.nonlocal_attention import ChannelAttention, PositionAttention
from attnseg.models.heads.common import classify, stage_map


class DANetHead(nn.Module):
    """Attention over positions beside attention over channels; the results are added.

    Each branch has a classifier of its own, for two further losses in training.
    """

    num_classes: int
    width: int = 512
    position_width: int = 64  # of the queries and keys of the position attention
    stage: int = -1
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> tuple[Array, tuple[Array, Array]]:
        """Features -> logits f32 [n h/s w/s k], and those of the (position, channel) branch."""
        x = stage_map(features, self.stage)

        def conv_norm(x: Array, name: str) -> Array:
            return ConvNorm(self.width, 3, dtype=self.dtype, name=name)(x, train=train)

        def logits(x: Array, name: str) -> Array:
            return classify(
                x, self.num_classes, self.dropout, train=train, dtype=self.dtype, name=name
            )

        position = conv_norm(x, "position_in")
        position = PositionAttention(self.position_width, self.dtype, name="position")(position)
        position = conv_norm(position, "position_out")
        channel = conv_norm(x, "channel_in")
        channel = ChannelAttention(name="channel")(channel)
        channel = conv_norm(channel, "channel_out")
        return logits(position + channel, "classifier"), (
            logits(position, "position_classifier"),
            logits(channel, "channel_classifier"),
        )
