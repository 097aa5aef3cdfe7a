"""CCNet's head: recurrent criss-cross attention (arXiv:1811.11721, sections 3.1 to 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.biased_conv_norm import BiasedConvNorm
from attnseg.layers.conv import Conv
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.models.heads.common import classify
from attnseg.ops.activation import relu
from attnseg.ops.resize import resize_bilinear

Activation = Callable[[Array], Array] | None


class Variant(NamedTuple):
    """What the implementations disagree on; None as an activation: there is none."""

    attend: Activation  # after each of the convolutions around the attention
    fuse: Activation  # after the one over [features, attended features]
    mix_norm: bool = True  # BatchNorm after the convolution behind the attention
    fuse_bias: bool = False  # the last convolution keeps a bias in front of its BatchNorm
    enlarge: int = 1  # logits are enlarged so many times, corners aligned


VARIANTS = {
    "mmseg": Variant(relu, relu),
    "official": Variant(nn.leaky_relu, nn.leaky_relu),
    "paddleseg": Variant(nn.leaky_relu, relu, fuse_bias=True),
    "post": Variant(None, None, mix_norm=False, enlarge=8),
}


class RCCAHead(nn.Module):
    """Criss-cross attention applied `recurrence` times with shared weights to the coarsest map.

    The variant "post" enlarges eight times before its last 1x1 convolution. A map of channels and
    an interpolation whose weights sum to one commute, bias included, so here the logits are
    enlarged instead: the same numbers at a sixty-fourth of the operations.
    """

    num_classes: int
    width: int = 512
    recurrence: int = 2  # 0 leaves the attention out
    variant: str = "mmseg"  # mmseg, official, paddleseg or post
    dropout: float = 0.1  # the post's code has none
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.variant in VARIANTS,
            f'rcca head: variant "{self.variant}" is none of {", ".join(VARIANTS)}.',
        )
        check(
            self.recurrence >= 0, f"rcca head: recurrence must be 0 or more, got {self.recurrence}."
        )

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k] at the stride s of the coarsest map.

        The variant "post" returns [n 8h/s 8w/s k].
        """
        variant = VARIANTS[self.variant]
        x = features.maps[-1]
        y = ConvNorm(self.width, 3, activation=variant.attend, dtype=self.dtype, name="reduce")(
            x, train=train
        )
        if self.recurrence:
            attention = CrissCrossAttention(dtype=self.dtype, name="attention")
            for _ in range(self.recurrence):
                y = attention(y)
        if variant.mix_norm:
            y = ConvNorm(self.width, 3, activation=variant.attend, dtype=self.dtype, name="mix")(
                y, train=train
            )
        else:
            y = Conv(self.width, 3, use_bias=False, dtype=self.dtype, name="mix")(y)
        Fuse = BiasedConvNorm if variant.fuse_bias else ConvNorm
        y = Fuse(self.width, 3, activation=variant.fuse, dtype=self.dtype, name="fuse")(
            jnp.concatenate([x.astype(y.dtype), y], axis=-1), train=train
        )
        logits = classify(y, self.num_classes, self.dropout, train=train, dtype=self.dtype)
        _, h, w, _ = logits.shape
        size = (h * variant.enlarge, w * variant.enlarge)
        return resize_bilinear(logits, size, align_corners=True)
