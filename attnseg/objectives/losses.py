"""Loss sums and the weights to divide them by."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from attnseg.core.errors import check
from attnseg.core.types import IGNORE, Array


def valid_mask(labels: Array, mask: Array | None, num_classes: int) -> jax.Array:
    """Which labels count: those that are not IGNORE, in rows that do not pad the batch.

    Args:
      labels: i32 [n h w] or [n].
      mask: f32 [n], 0 for a row of padding, or None when no row is.
      num_classes: classes of the task. With more than 255 of them (ImageNet), 255 is a class
        like any other and a label [n] is left out by `mask` alone.

    Returns:
      bool, the shape of `labels`.

    Raises:
      UserError: label maps with more than 255 classes, where IGNORE would be ambiguous.
    """
    if num_classes <= IGNORE:
        valid = labels != IGNORE
    else:
        check(
            labels.ndim == 1,
            f"label maps mark ignored pixels with {IGNORE} and so hold at most {IGNORE} classes, "
            f"got {num_classes}; merge classes in the label map.",
        )
        valid = jnp.ones(labels.shape, bool)
    if mask is None:
        return valid
    return valid & (mask > 0).reshape(mask.shape + (1,) * (labels.ndim - 1))


def cross_entropy(
    logits: Array,
    labels: Array,
    mask: Array | None = None,
    class_weights: Sequence[float] | Array | None = None,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy over the valid labels, computed in float32.

    Args:
      logits: [n h w k] or [n k].
      labels: i32 [n h w] or [n]; 0..k-1, or IGNORE.
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.
      class_weights: k numbers; a pixel's loss is multiplied by the weight of its label.
      label_smoothing: share of the target, 0..1, that is spread evenly over all k classes.

    Returns:
      loss_sum: f32 [], in nats.
      weight: f32 [], the number of valid labels, or the sum of their class weights.
      The gradient at a label that is not valid is exactly zero.

    Raises:
      UserError: shapes that do not belong together.
    """
    num_classes = logits.shape[-1]
    check(
        logits.shape[:-1] == labels.shape,
        f"logits of shape {tuple(logits.shape)} do not fit labels of shape {tuple(labels.shape)}; "
        "resize the logits to the label map first.",
    )
    valid = valid_mask(labels, mask, num_classes)
    # optax and take_along_axis answer an index of 255 with NaN, which no later select undoes.
    labels = jnp.where(valid, labels, 0)
    logits = logits.astype(jnp.float32)
    loss = _pixel_losses(logits, labels, label_smoothing)
    if class_weights is None:
        # Counted in int32: a float32 sum of ones stops growing at 2^24 pixels.
        weight = jnp.sum(valid, dtype=jnp.int32).astype(jnp.float32)
        return jnp.sum(jnp.where(valid, loss, 0.0)), weight
    weights = jnp.where(valid, _weights(class_weights, num_classes)[labels], 0.0)
    return jnp.sum(weights * loss), jnp.sum(weights)


def _pixel_losses(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """-log softmax at `labels`, f32 shaped like them.

    Forward and backward take half to a third of the time of a gather from `log_softmax` on CPU
    (11 classes: 9 against 32 ms, 150: 35 against 85), as no array [... k] is written in between;
    a one-hot product in place of the gather is level at 11 classes and half as fast at 150.
    """
    log_total = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    if smoothing:
        target = (1.0 - smoothing) * target + smoothing * jnp.mean(logits, axis=-1)
    return log_total - target


def _weights(class_weights: Sequence[float] | Array, num_classes: int) -> jax.Array:
    weights = jnp.asarray(class_weights, jnp.float32)
    check(
        weights.shape == (num_classes,),
        f"class_weights has {weights.size} entries, expected {num_classes}, one for each class.",
    )
    return weights
