"""Convolution as XLA has it: what the operators with ways of their own fall back on."""

from __future__ import annotations

import jax
from jax import Array


def direct_conv(x: Array, kernel: Array, *, stride: int = 1, dilation: int = 1) -> Array:
    """[n h w c] * [kh kw c/g o], zeros around the map -> [n ceil(h/stride) ceil(w/stride) o].

    kh and kw are odd; the g groups of channels follow from the shapes.
    """
    edges = [dilation * (side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(edge, edge) for edge in edges],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )
