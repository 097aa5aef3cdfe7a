"""Pixel losses of logits that are enlarged to the label map strip by strip.

The sum over pixels and its gradient come from one pass: the gradient of a sum does not depend on
what becomes of the sum later but for a factor, so it is made while the strip is there. Kept for
the backward pass is that gradient at the logits' own resolution.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from attnseg.core.types import Array
from attnseg.objectives.losses import class_factors, counted_labels, focal_of, weight_of
from attnseg.ops.platforms import by_platform
from attnseg.ops.precision import accumulator
from attnseg.ops.strips import Strips, strip_rows


def _strip_losses(logits, labels, smoothing: float):
    """-log softmax at the labels, and what softmax is made of: exponentials and their sums."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    exponentials = jnp.exp(logits - top)
    sums = jnp.sum(exponentials, axis=-1)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    if smoothing:
        target = (1.0 - smoothing) * target + smoothing * jnp.mean(logits, axis=-1)
    return jnp.log(sums) + top[..., 0] - target, exponentials, sums


def _strip_gradient(exponentials, sums, labels, factors, smoothing: float):
    """Of ``sum(factors * loss)``: softmax minus target, times the factor."""
    k = exponentials.shape[-1]
    is_label = labels[..., None] == jnp.arange(k)
    target = jnp.where(is_label, 1.0 - smoothing + smoothing / k, smoothing / k)
    return exponentials * (factors / sums)[..., None] - factors[..., None] * target


def _run(logits, labels, factors, smoothing, gamma, with_gradient):
    def run(logits, labels, factors, *, platform: str):
        rows = strip_rows(logits.shape, labels.shape[2], platform)
        strips = Strips(logits.shape, labels.shape[1:], rows, adds=platform == "cpu")
        dtype = accumulator(logits)

        def strip(carry, inputs):
            total, gradient = carry
            first, band, labels, factors = inputs
            part = strips.part(logits, first)
            wide = strips.enlarge(part, band)
            loss, *shares = _strip_losses(wide, labels, smoothing)
            if gamma:
                loss, slope = jax.vjp(lambda x: focal_of(x, gamma), loss)
            total = total + jnp.sum(factors * loss)
            if with_gradient:
                if gamma:
                    factors = slope(factors)[0]
                wide = _strip_gradient(*shares, labels, factors, smoothing)
                gradient = strips.add(gradient, strips.narrow(wide, band, logits.shape[2]), first)
            return (total, gradient), None

        zero = jnp.zeros(logits.shape if with_gradient else (), dtype)
        inputs = strips.inputs(labels, factors)
        return jax.lax.scan(strip, (jnp.zeros((), dtype), zero), inputs)[0]

    return by_platform(run, logits, labels, factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def enlarged_loss_sum(
    logits: Array, labels: Array, factors: Array, smoothing: float, gamma: float
) -> jax.Array:
    """``sum(factors * loss(resize_bilinear(logits, labels' size), labels))``, float32 at least.

    Args:
      logits: [n h w k] at any resolution.
      labels: i32 [n H W], 0..k-1 everywhere.
      factors: f32 [n H W], 0 where a label does not count; no gradient flows to them.
      smoothing: share of the target spread over all classes.
      gamma: exponent of the focal loss; 0 is the cross-entropy.

    Returns:
      [], differentiable in `logits`.
    """
    return _run(logits, labels, factors, smoothing, gamma, False)[0]


def _forward(logits, labels, factors, smoothing, gamma):
    total, gradient = _run(logits, labels, factors, smoothing, gamma, True)
    return total, gradient.astype(logits.dtype)


def _backward(smoothing, gamma, gradient, grad):
    return (grad * gradient).astype(gradient.dtype), None, None


enlarged_loss_sum.defvjp(_forward, _backward)


def enlarged_loss(
    logits: Array,
    labels: Array,
    mask: Array | None = None,
    class_weights: Sequence[float] | Array | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    normalise: str = "valid",
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy`, or with `gamma` `focal`, of ``resize_bilinear(logits, labels' size)``.

    Args:
      logits: [n h w k] at any resolution.
      labels: i32 [n H W]; 0..k-1, or IGNORE.
      others: as in `attnseg.objectives.losses`.

    Returns:
      loss_sum, weight: as in `cross_entropy`. The enlarged logits never exist as a whole.

    Raises:
      UserError: `class_weights` or `normalise` that do not fit.
    """
    weights = class_factors(class_weights, logits)
    labels, valid = counted_labels(labels, mask, logits.shape[-1])
    factors = jnp.where(valid, 1.0 if weights is None else weights[labels], 0.0)
    total = enlarged_loss_sum(logits, labels, factors, label_smoothing, gamma)
    return total, weight_of(labels, valid, mask, weights, normalise)
