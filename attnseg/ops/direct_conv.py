"""Convolution as XLA has it: what the operators with ways of their own fall back on."""

from __future__ import annotations

import jax
from jax import Array


def direct_conv(x: Array, kernel: Array, *, stride: int = 1, dilation: int = 1) -> Array:
    """[n h w c] * [k k c o], k odd, zeros around the map -> [n ceil(h/stride) ceil(w/stride) o]."""
    edge = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(edge, edge)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
