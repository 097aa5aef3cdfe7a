"""Random brightness, contrast and saturation of image batches, on the device.

torchvision's ColorJitter without hue, as timm calls it: three factors from 1 - strength to
1 + strength, in random order.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import Array

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grey
ORDERS = tuple(itertools.permutations(range(3)))


def _blend(image: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(other + factor * (image - other), 0.0, 255.0)


def _grey(image: Array) -> Array:
    return jnp.sum(image * jnp.asarray(GREY), axis=-1, keepdims=True)


def scale_brightness(image: Array, factor: Array) -> Array:
    """f32 [h w 3] in 0..255, away from or towards black."""
    return _blend(image, jnp.zeros(()), factor)


def scale_contrast(image: Array, factor: Array) -> Array:
    """f32 [h w 3] in 0..255, away from or towards the mean grey."""
    return _blend(image, jnp.mean(_grey(image)), factor)


def scale_greyness(image: Array, factor: Array) -> Array:
    """f32 [h w 3] in 0..255, away from or towards each pixel's grey."""
    return _blend(image, _grey(image), factor)


CHANGES = (scale_brightness, scale_contrast, scale_greyness)


def jitter(image: Array, order: Array, factors: Array) -> Array:
    """Applies `CHANGES` with `factors` f32 [3], in the order `ORDERS[order]`."""

    def in_turn(permutation: tuple[int, ...]):
        def apply(image: Array) -> Array:
            for index in permutation:
                image = CHANGES[index](image, factors[index])
            return image

        return apply

    return jax.lax.switch(order, [in_turn(p) for p in ORDERS], image)


def colour_jitter(key: Array, images: Array, strength: float) -> Array:
    """f32 [n h w 3] in 0..255; every image draws its own order and factors.

    Args:
      key: PRNG key.
      images: f32 [n h w 3].
      strength: largest distance of a factor from 1, 0..1.
    """
    order_key, factor_key = jax.random.split(key)
    n = len(images)
    orders = jax.random.randint(order_key, (n,), 0, len(ORDERS))
    low, high = 1.0 - strength, 1.0 + strength
    factors = jax.random.uniform(factor_key, (n, 3), minval=low, maxval=high)
    return jax.vmap(jitter)(images, orders, factors)
