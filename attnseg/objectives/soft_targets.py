"""Cross-entropy against a distribution over the classes, as mixing makes it of labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnseg.core.errors import check
from attnseg.core.types import Array


def soft_cross_entropy(
    logits: Array, probs: Array, mask: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy of soft targets, computed in float32.

    Args:
      logits: [n k].
      probs: f32 [n k], targets; each row adds up to 1.
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.

    Returns:
      loss_sum: f32 [], in nats.
      weight: f32 [], the number of rows that count.

    Raises:
      UserError: shapes that do not belong together.
    """
    check(
        logits.shape == probs.shape,
        f"logits of shape {tuple(logits.shape)} do not fit targets of shape {tuple(probs.shape)}.",
    )
    losses = -jnp.sum(probs * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
    valid = jnp.ones(losses.shape, bool) if mask is None else mask > 0
    return jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(valid, dtype=jnp.float32)
