"""SegNeXt's decoder: Hamburger on the last three stages (arXiv:2209.08575, section 3.2).

The paper enlarges the stages to the finest grid, concatenates them and mixes with one matrix.
Bilinear enlargement acts on pixels and a matrix on channels, so the two commute: each stage is
multiplied by its own rows of that matrix on its own grid, and the results are summed after
enlarging. The result is the same up to rounding at a quarter of the operations (T, 512x512).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Linear, conv_init
from attnseg.layers.drop import ChannelDropout
from attnseg.layers.hamburger import Hamburger
from attnseg.layers.norm import GroupNorm
from attnseg.ops.activation import relu
from attnseg.ops.linear import linear_map
from attnseg.ops.resize import resize_bilinear

STAGES = 3  # the finest stage is left out: its low-level detail hurts the result


class Squeeze(nn.Module):
    """Stages of several grids to one map: 1x1 convolution of their concatenation, norm, ReLU."""

    width: int
    groups: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> Array:
        """Maps [n hi wi ci], fine to coarse -> [n h1 w1 width]."""
        rows = np.cumsum([x.shape[-1] for x in maps])
        kernel = self.param("kernel", conv_init, (int(rows[-1]), self.width), jnp.float32)
        mixed = 0
        for x, part in zip(maps, jnp.split(kernel, rows[:-1]), strict=True):
            x, part = nn.dtypes.promote_dtype(x, part, dtype=self.dtype)
            mixed = mixed + resize_bilinear(linear_map(x, part), maps[0].shape[1:3])
        return relu(GroupNorm(num_groups=self.groups, dtype=self.dtype, name="norm")(mixed))


class LightHamHead(nn.Module):
    """Light Hamburger decoder; logits at the stride of the third stage from the end."""

    num_classes: int
    width: int = 256
    rank: int = 16  # bases of the factorisation
    groups: int = 32  # of every GroupNorm
    train_steps: int = 6
    eval_steps: int = 7
    gradient: str = "full"  # through the factorisation: "full" or "one_step"
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.width % self.groups == 0,
            f"light_ham: width {self.width} cannot be split into {self.groups} groups.",
        )

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/8 w/8 k]."""
        check(
            len(features.maps) >= STAGES,
            f"light_ham needs a backbone of at least {STAGES} stages, got {len(features.maps)}.",
        )
        x = Squeeze(self.width, self.groups, self.dtype, name="squeeze")(features.maps[-STAGES:])
        x = Hamburger(
            self.width,
            self.rank,
            self.train_steps,
            self.eval_steps,
            self.gradient,
            self.groups,
            self.dtype,
            name="hamburger",
        )(x, train=train)
        x = Linear(
            self.width, use_bias=False, kernel_init=conv_init, dtype=self.dtype, name="align"
        )(x)
        x = relu(GroupNorm(num_groups=self.groups, dtype=self.dtype, name="align_norm")(x))
        x = ChannelDropout(self.dropout, name="dropout")(x, train=train)
        classifier_init = nn.initializers.normal(0.01)
        x = Linear(
            self.num_classes, kernel_init=classifier_init, dtype=self.dtype, name="classifier"
        )(x)
        return x.astype(jnp.float32)
