"""Losses of regions: one number per class from all pixels given at once.

They are no sums over pixels. Their value is a mean over classes; as every loss here returns a sum
and a weight, it comes multiplied by the number of valid pixels with that number as the weight.
Added over the parts of an accumulated batch (or batches of evaluation) and divided once, that is
the mean of the parts' values by valid pixels, not the value of the whole. Devices make no
difference: what they share is one batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnseg.core.types import Array
from attnseg.objectives.losses import count_of, prepared

SMOOTH = 1.0  # pixels added to both halves of Dice's fraction, for classes of few pixels


def dice(logits: Array, labels: Array, mask: Array | None = None) -> tuple[jax.Array, jax.Array]:
    """1 - 2 |p y| / (|p| + |y|), the mean over the classes that have a valid pixel.

    p is the softmax and y the label as 0 or 1, both summed over all valid pixels of the batch
    (arXiv:1606.04797, section 3, without the squares).

    Args:
      logits: [n h w k].
      labels: i32 [n h w]; 0..k-1, or IGNORE.
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.

    Returns:
      loss_sum: f32 [], the value times the weight.
      weight: f32 [], the number of valid pixels.

    Raises:
      UserError: shapes that do not belong together.
    """
    logits, labels, valid = prepared(logits, labels, mask)
    shares = jnp.where(valid[..., None], jax.nn.softmax(logits), 0.0)
    # A comparison that is fused into the sums: neither a one-hot array nor a scatter, whose order
    # of additions is not fixed on a GPU.
    is_label = valid[..., None] & (labels[..., None] == jnp.arange(logits.shape[-1]))
    pixels = tuple(range(labels.ndim))
    common = jnp.sum(jnp.where(is_label, shares, 0.0), pixels)
    labelled = jnp.sum(is_label, pixels, dtype=jnp.int32).astype(jnp.float32)
    overlap = (2.0 * common + SMOOTH) / (jnp.sum(shares, pixels) + labelled + SMOOTH)
    return _mean_of_present(1.0 - overlap, labelled, valid)


def lovasz_softmax(
    logits: Array, labels: Array, mask: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The Lovasz extension of 1 - IoU, the mean over the classes that have a valid pixel.

    arXiv:1705.08790, eqs. 8, 9 and 12, over all valid pixels of the batch. One class after the
    other, to sort only one array [n h w] at a time.

    Args:
      logits: [n h w k].
      labels: i32 [n h w]; 0..k-1, or IGNORE.
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.

    Returns:
      loss_sum: f32 [], the value times the weight.
      weight: f32 [], the number of valid pixels.

    Raises:
      UserError: shapes that do not belong together.
    """
    logits, labels, valid = prepared(logits, labels, mask)
    shares = jax.nn.softmax(logits).reshape(-1, logits.shape[-1])
    labels, counted = labels.ravel(), valid.ravel()

    def of_class(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        is_label = counted & (labels == index)
        share = jax.lax.dynamic_index_in_dim(shares, index, axis=1, keepdims=False)
        errors = jnp.where(counted, jnp.abs(is_label - share), 0.0)
        # Piecewise linear: the weights are constants of the order.
        weights = jax.lax.stop_gradient(jaccard_weights(errors, is_label, counted))
        return jnp.sum(weights * errors), jnp.sum(is_label, dtype=jnp.int32)

    values, labelled = jax.lax.map(of_class, jnp.arange(logits.shape[-1]))
    return _mean_of_present(values, labelled, valid)


def jaccard_weights(errors: jax.Array, is_label: jax.Array, counted: jax.Array) -> jax.Array:
    """By how much each pixel's error raises 1 - IoU after those that are greater, f32 [pixels].

    With I pixels of the class not yet wrong and a union of U: 1 / U for a pixel of the class,
    I / (U (U - 1)) for another. The paper's code subtracts neighbouring values of 1 - IoU,
    which in float32 leaves two digits of a million pixels' weights.
    """
    order = jnp.argsort(jnp.where(counted, -errors, 1.0))  # those that do not count come last
    hit = is_label[order]
    found = jnp.cumsum(hit, dtype=jnp.int32)
    labelled = found[-1]
    left = (labelled - found).astype(jnp.float32)
    union = (labelled + jnp.cumsum(~hit, dtype=jnp.int32)).astype(jnp.float32)
    other = left / jnp.maximum(union * (union - 1.0), 1.0)
    steps = jnp.where(hit, 1.0 / jnp.maximum(union, 1.0), other)
    return jnp.zeros_like(errors).at[order].set(steps, unique_indices=True)


def _mean_of_present(values, labelled, valid) -> tuple[jax.Array, jax.Array]:
    """The mean of `values` [k] over classes with pixels, times the weight, and the weight."""
    present, weight = labelled > 0, count_of(valid)
    mean = jnp.sum(jnp.where(present, values, 0.0)) / jnp.maximum(jnp.sum(present), 1)
    return mean * weight, weight
