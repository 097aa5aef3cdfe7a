"""Atrous spatial pyramid pooling: DeepLabV3 (arXiv:1706.05587) and V3+ (arXiv:1802.02611)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import Features
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.fusion_conv import FusionConvNorm
from attnseg.layers.separable_conv import SeparableConvNorm
from attnseg.models.heads.common import classify, stage_map
from attnseg.ops.resize import resize_bilinear


class ASPP(nn.Module):
    """Parallel convolutions with different holes and the mean of the map, fused."""

    features: int
    dilations: tuple[int, ...]
    separable: bool
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w features]."""
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        maps = [ConvNorm(self.features, dtype=self.dtype, name="mean")(mean, train=train)]
        for i, dilation in enumerate(self.dilations):
            # Without holes the branch is a 1x1 convolution.
            kernel = 3 if dilation > 1 else 1
            if self.separable and dilation > 1:
                branch = SeparableConvNorm(
                    self.features, dilation, self.dtype, name=f"branch{i + 1}"
                )
            else:
                branch = ConvNorm(
                    self.features,
                    kernel,
                    dilation=dilation,
                    dtype=self.dtype,
                    name=f"branch{i + 1}",
                )
            maps.append(branch(x, train=train))
        return FusionConvNorm(self.features, dtype=self.dtype, name="bottleneck")(
            maps, x.shape[1:3], train=train
        )


class ASPPHead(nn.Module):
    """DeepLabV3+'s head; with separable=False and low_width=0 that of DeepLabV3."""

    num_classes: int
    width: int = 512
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    separable: bool = True  # depthwise separable convolutions, and two of them behind the fusion
    low_width: int = 48  # channels taken from the finest stage; 0: it is not used
    stage: int = -1
    align_corners: bool = False  # in enlarging to the finest stage
    dropout: float = 0.1
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.separable or self.low_width == 0,
            "aspp: separable=False is DeepLabV3, which does not use the finest stage; "
            "set low_width=0 too.",
        )

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Array:
        """Features -> logits f32 [n h/s w/s k].

        The stride s is that of the finest stage, or with low_width=0 of `stage`.
        """
        x = ASPP(self.width, self.dilations, self.separable, self.dtype, name="aspp")(
            stage_map(features, self.stage), train=train
        )
        if self.low_width:
            low = ConvNorm(self.low_width, dtype=self.dtype, name="low")(
                features.maps[0], train=train
            )
            x = resize_bilinear(x, low.shape[1:3], align_corners=self.align_corners)
            x = jnp.concatenate([x, low], axis=-1)
        for i in range(2 if self.separable else 0):
            x = SeparableConvNorm(self.width, dtype=self.dtype, name=f"refine{i + 1}")(
                x, train=train
            )
        return classify(x, self.num_classes, self.dropout, train=train, dtype=self.dtype)
