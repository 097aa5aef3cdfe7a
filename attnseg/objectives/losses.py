"""Losses that are sums over pixels, with the weights to divide them by.

Their sums and weights may be added over batches, parts of a batch and devices, and divided once.
Only `ohem` looks at several pixels together: it picks them from what it is given at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from attnseg.core.errors import check
from attnseg.core.types import IGNORE, Array

NORMALISE = ("valid", "all")


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
    normalise: str = "valid",
) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy over the valid labels, computed in float32.

    Args:
      logits: [n h w k] or [n k].
      labels: i32 [n h w] or [n]; 0..k-1, or IGNORE.
      mask: f32 [n], 0 for a row that only pads the batch; None when no row does.
      class_weights: k numbers; a pixel's loss is multiplied by the weight of its label.
      label_smoothing: share of the target, 0..1, that is spread evenly over all k classes.
      normalise: what the weight counts: "valid" labels (torch), or "all" labels in rows that do
        not pad (mmsegmentation, where an example with much to ignore counts for less).

    Returns:
      loss_sum: f32 [], in nats.
      weight: f32 []: "valid": the number of valid labels, or the sum of their class weights;
        "all": the number of labels, ignored ones included.
      The gradient at a label that is not valid is exactly zero.

    Raises:
      UserError: shapes that do not belong together.
    """
    logits, labels, valid = prepared(logits, labels, mask)
    loss = _pixel_losses(logits, labels, label_smoothing)
    return _summed(loss, labels, valid, mask, class_factors(class_weights, logits), normalise)


def focal(
    logits: Array,
    labels: Array,
    mask: Array | None = None,
    class_weights: Sequence[float] | Array | None = None,
    gamma: float = 2.0,
    normalise: str = "valid",
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy times (1 - p)^gamma, p being the label's share of the softmax.

    Focal loss (arXiv:1708.02002, eq. 5) for exclusive classes; its alpha are the class weights.

    Args:
      gamma: 0 or more; 0 gives the cross-entropy.
      others: as in `cross_entropy`.

    Returns:
      loss_sum, weight: as in `cross_entropy`.

    Raises:
      UserError: shapes that do not belong together.
    """
    logits, labels, valid = prepared(logits, labels, mask)
    loss = focal_of(_pixel_losses(logits, labels, 0.0), gamma)
    return _summed(loss, labels, valid, mask, class_factors(class_weights, logits), normalise)


def focal_of(loss: jax.Array, gamma: float) -> jax.Array:
    """The focal loss of pixels with cross-entropy `loss`."""
    # 1 - p, without the cancellation; kept off 0, where a power below 1 has no derivative.
    rest = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(jnp.float32).tiny)
    return rest**gamma * loss


def ohem(
    logits: Array,
    labels: Array,
    mask: Array | None = None,
    class_weights: Sequence[float] | Array | None = None,
    label_smoothing: float = 0.0,
    threshold: float = 0.7,
    keep: int = 100_000,
    normalise: str = "valid",
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy over the hard pixels alone: online hard example mining.

    Hard are the valid pixels whose label has at most `threshold` of the softmax; where these are
    fewer than `keep` for each example, the limit rises until they are that many. Pixels exactly
    at the limit all count, so the choice depends on no order. This is the rule of CCNet's code;
    as in mmsegmentation `keep` is for each example. All examples given at once, over all devices,
    share one limit; the parts of an accumulated batch have one each.

    Args:
      threshold: 0..1.
      keep: least number of pixels for each example that does not pad; with fewer valid ones all
        of them count.
      normalise: what the weight counts: "valid": hard pixels (CCNet's code), or "all" labels
        (mmsegmentation).
      others: as in `cross_entropy`.

    Returns:
      loss_sum, weight: as in `cross_entropy`, over the hard pixels.

    Raises:
      UserError: shapes that do not belong together.
    """
    logits, labels, valid = prepared(logits, labels, mask)
    loss = _pixel_losses(logits, labels, 0.0)
    share = jnp.exp(-jax.lax.stop_gradient(jnp.maximum(loss, 0.0)))
    pixels = labels.size // labels.shape[0]
    limit = _least_limit(share, valid, threshold, _rows(labels, mask) * min(keep, pixels))
    if label_smoothing:
        loss = _pixel_losses(logits, labels, label_smoothing)
    hard = valid & (share <= limit)
    return _summed(loss, labels, hard, mask, class_factors(class_weights, logits), normalise)


def counted_labels(labels, mask, num_classes) -> tuple[jax.Array, jax.Array]:
    """Labels without IGNORE, and which of them count."""
    valid = valid_mask(labels, mask, num_classes)
    # optax and take_along_axis answer an index of 255 with NaN, which no later select undoes.
    return jnp.where(valid, labels, 0), valid


def prepared(logits, labels, mask) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits in float32, labels without IGNORE, and which of them count."""
    check(
        logits.shape[:-1] == labels.shape,
        f"logits of shape {tuple(logits.shape)} do not fit labels of shape {tuple(labels.shape)}; "
        "resize the logits to the label map first.",
    )
    return logits.astype(jnp.float32), *counted_labels(labels, mask, logits.shape[-1])


def _summed(loss, labels, counted, mask, weights, normalise) -> tuple[jax.Array, jax.Array]:
    """The sum of `loss` where `counted`, times its label's weight, and what to divide it by."""
    if weights is None:
        total = jnp.sum(jnp.where(counted, loss, 0.0))
    else:
        total = jnp.sum(jnp.where(counted, weights[labels], 0.0) * loss)
    return total, weight_of(labels, counted, mask, weights, normalise)


def weight_of(labels, counted, mask, weights, normalise) -> jax.Array:
    """What a sum of losses is divided by, f32 []: see `cross_entropy`."""
    check(normalise in NORMALISE, f'normalise="{normalise}" is none of {", ".join(NORMALISE)}.')
    if normalise == "all":
        pixels = labels.size // labels.shape[0]
        return jnp.asarray(_rows(labels, mask) * pixels, jnp.float32)
    if weights is None:
        return count_of(counted)
    return jnp.sum(jnp.where(counted, weights[labels], 0.0))


def _rows(labels, mask) -> int | jax.Array:
    """Number of rows that do not pad."""
    return labels.shape[0] if mask is None else jnp.sum(mask > 0, dtype=jnp.int32)


def count_of(counted: jax.Array) -> jax.Array:
    """Counted in int32: a float32 sum of ones stops growing at 2^24 pixels."""
    return jnp.sum(counted, dtype=jnp.int32).astype(jnp.float32)


def _least_limit(share, valid, threshold, keep) -> jax.Array:
    """The least float32 from `threshold` to 1 that at least `keep` valid shares do not exceed.

    By bisection on the bits, which have the order of the numbers: some 23 counts. Sorting would
    gather the pixels of all devices in one place.
    """
    bits = jax.lax.bitcast_convert_type(share, jnp.int32)
    low, high = (jax.lax.bitcast_convert_type(jnp.float32(x), jnp.int32) for x in (threshold, 1.0))

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        enough = jnp.sum(valid & (bits <= middle), dtype=jnp.int32) >= keep
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    high = jax.lax.fori_loop(0, 31, halve, (low, high))[1]
    return jax.lax.bitcast_convert_type(high, jnp.float32)


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


def class_factors(class_weights: Sequence[float] | Array | None, logits: Array) -> jax.Array | None:
    """`class_weights` as f32 [k], or None."""
    if class_weights is None:
        return None
    weights, k = jnp.asarray(class_weights, jnp.float32), logits.shape[-1]
    check(
        weights.shape == (k,),
        f"class_weights has {weights.size} entries, expected {k}, one for each class.",
    )
    return weights
