"""What heads that look at one map share."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv import Linear
from attnseg.layers.drop import ChannelDropout

classifier_init = nn.initializers.normal(0.01)


def stage_map(features: Features, stage: int) -> Array:
    """The map [n h w c] of one stage, counted as Python counts.

    Raises:
      UserError: the backbone has no such stage.
    """
    count = len(features.maps)
    check(
        -count <= stage < count,
        f"the head reads stage {stage}, but the backbone has {count}: {-count} to {count - 1}.",
    )
    return features.maps[stage]


def classify(
    x: Array,
    num_classes: int,
    dropout: float,
    *,
    train: bool,
    dtype: jnp.dtype | None,
    name: str = "classifier",
) -> Array:
    """Channel dropout and a linear map: [n h w c] -> logits f32 [n h w k].

    To be called within a compact method, whose module gets the parameters `name`.
    """
    x = ChannelDropout(dropout, name=f"{name}_dropout")(x, train=train)
    x = Linear(num_classes, kernel_init=classifier_init, dtype=dtype, name=name)(x)
    return x.astype(jnp.float32)
