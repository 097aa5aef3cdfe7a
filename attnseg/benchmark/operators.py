"""Our operators as functions of their arguments, for a benchmark."""

from __future__ import annotations

import jax

from attnseg.ops.attention import dot_product_attention
from attnseg.ops.criss_cross import criss_cross_attention
from attnseg.ops.depthwise import depthwise_conv
from attnseg.ops.pixel_attention import pixel_attention

FUNCTIONS = {
    "depthwise": depthwise_conv,
    "criss_cross": criss_cross_attention,
    "non_local": pixel_attention,
    "spatial_reduction": lambda q, k, v: dot_product_attention(q, k, v, 1),
}


def forward_and_gradient(function):
    """``run(seed, *args)``: the gradients of ``sum(seed * function(*args))``."""

    def run(seed: jax.Array, *args: jax.Array):
        return jax.vjp(function, *args)[1](seed)

    return run
