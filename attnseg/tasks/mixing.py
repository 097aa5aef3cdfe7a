"""MixUp and CutMix of a batch with its own reverse, on the device.

MixUp: arXiv:1710.09412; CutMix: arXiv:1905.04899. One draw for a whole batch, row i mixed with
row n-1-i, as in timm's batch mode, the default of its training script.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Mix(NamedTuple):
    """How much of its own a row keeps; the rest comes from its partner."""

    share: Array  # f32 [], of the label
    weights: Array  # f32 [h w], of each pixel


def draw_mix(
    key: Array, size: tuple[int, int], mixup: float, cutmix: float, switch: float = 0.5
) -> Mix:
    """Draws how to mix; at least one kind must be wanted.

    Args:
      key: PRNG key.
      size: (h, w) of the images in pixels.
      mixup, cutmix: parameter of the Beta distribution of the share; 0 leaves the kind out.
      switch: chance of CutMix where both are wanted.
    """
    blend_key, box_key, switch_key = jax.random.split(key, 3)
    blend = blend_mix(jax.random.beta(blend_key, mixup, mixup), size) if mixup else None
    if not cutmix:
        return blend
    share_key, *middle_keys = jax.random.split(box_key, 3)
    middle = [jax.random.randint(k, (), 0, s) for k, s in zip(middle_keys, size, strict=True)]
    box = box_mix(jax.random.beta(share_key, cutmix, cutmix), middle, size)
    if not mixup:
        return box
    cut = jax.random.bernoulli(switch_key, switch)
    return jax.tree_util.tree_map(lambda a, b: jnp.where(cut, a, b), box, blend)


def blend_mix(share: Array, size: tuple[int, int]) -> Mix:
    """MixUp: every pixel keeps `share`."""
    return Mix(share, jnp.full(size, share))


def box_mix(share: Array, middle: tuple[Array, Array], size: tuple[int, int]) -> Mix:
    """CutMix: a box of the image's shape and 1 - `share` of its area is the partner's.

    The border clips the box around `middle` (row, column); the label follows what is left of it.
    """
    inside = jnp.ones(size, bool)
    for axis, (side, at) in enumerate(zip(size, middle, strict=True)):
        half = jnp.floor(side * jnp.sqrt(1.0 - share)) // 2
        index = jnp.arange(side).reshape(-1, 1) if axis == 0 else jnp.arange(side)
        inside &= (index >= at - half) & (index < at + half)
    weights = 1.0 - inside.astype(jnp.float32)
    return Mix(jnp.mean(weights), weights)


def mix_images(images: Array, mix: Mix) -> Array:
    """f32 [n h w c] of any range, mixed with the rows in reverse order."""
    weights = mix.weights[..., None]
    return images * weights + images[::-1] * (1.0 - weights)


def mix_targets(targets: Array, mix: Mix) -> Array:
    """f32 [n k] targets, mixed like the images."""
    return targets * mix.share + targets[::-1] * (1.0 - mix.share)


def smoothed_one_hot(labels: Array, num_classes: int, smoothing: float = 0.0) -> Array:
    """i32 [n] -> f32 [n k] whose rows add up to 1, `smoothing` of it spread over all classes."""
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return one_hot * (1.0 - smoothing) + smoothing / num_classes
