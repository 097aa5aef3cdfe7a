"""CCNet's attention module (arXiv:1811.11721, section 3.2, figure 3)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check
from attnseg.layers.conv import KeyLinear, Linear
from attnseg.layers.record import CrissCrossRecord, record
from attnseg.ops.channels import scale_channels
from attnseg.ops.criss_cross import criss_cross_attention


class CrissCrossAttention(nn.Module):
    """Criss-cross attention with a learned gate: ``gamma * attention(x) + x``.

    The gate starts at zero, so that the module starts as the identity. Applied twice with the
    same weights, every pixel has heard from every other.
    """

    reduction: int = 8  # queries and keys have c / reduction channels
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n h w c].

        Raises:
          UserError: c is smaller than `reduction`.
        """
        c = x.shape[-1]
        check(
            c >= self.reduction,
            f"criss-cross attention: {c} channels cannot be reduced {self.reduction} times.",
        )
        query = Linear(c // self.reduction, dtype=self.dtype, name="query")(x)
        key = KeyLinear(c // self.reduction, dtype=self.dtype, name="key")(x)
        value = Linear(c, dtype=self.dtype, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        record(self, lambda: CrissCrossRecord(query, key))
        out = criss_cross_attention(query, key, value)
        return scale_channels(out, gamma[0]) + x
