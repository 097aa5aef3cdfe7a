"""Fully convolutional head (arXiv:1411.4038) in mmsegmentation's form; also the auxiliary head."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv_norm import ConvNorm
from attnseg.models.heads.common import classify, stage_map


class FCNHead(nn.Module):
    """Convolutions on one stage, fused with that stage itself.

    The auxiliary head of the dilated networks has stage=-2, width=256, convs=1, concat=False.
    """

    num_classes: int
    width: int = 512
    convs: int = 2
    kernel: int = 3
    concat: bool = True  # fuse the result with the map that went in
    stage: int = -1
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.convs >= 1, f"fcn: convs={self.convs}; at least one is needed.")
        check(self.kernel % 2 == 1, f"fcn: kernel={self.kernel} must be odd to keep the grid.")

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the stage."""
        x = y = stage_map(features, self.stage)
        for i in range(self.convs):
            y = ConvNorm(self.width, self.kernel, dtype=self.dtype, name=f"conv{i + 1}")(
                y, train=train
            )
        if self.concat:
            y = jnp.concatenate([x.astype(y.dtype), y], axis=-1)
            y = ConvNorm(self.width, self.kernel, dtype=self.dtype, name="fuse")(y, train=train)
        return classify(y, self.num_classes, self.dropout, train=train, dtype=self.dtype)
