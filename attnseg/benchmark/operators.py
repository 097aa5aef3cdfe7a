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


def forward_and_gradients(function):
    """``run(seed, *args)``: ``function(*args)``, and the gradients of its sum weighted by `seed`.

    The result is returned too: unused, it would not be computed.
    """

    def run(seed: jax.Array, *args: jax.Array):
        out, transposed = jax.vjp(function, *args)
        return out, transposed(seed)

    return run
