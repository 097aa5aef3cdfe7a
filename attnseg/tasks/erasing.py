"""Random erasing of image batches, on the device (arXiv:1708.04896, as in timm)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Normalisation

AREA = (0.02, 1 / 3)  # of the image
RATIO = (0.3, 1 / 0.3)  # height to width
TRIES = 10  # boxes that do not fit into the image are drawn anew


def random_erasing(
    key: Array, images: Array, probability: float, normalisation: Normalisation
) -> Array:
    """Replaces a random box by noise of the data's mean and deviation, each pixel its own.

    Args:
      key: PRNG key.
      images: f32 [n h w 3] in 0..255.
      probability: of each image to lose a box.
      normalisation: after it the noise has mean 0 and deviation 1, so it leaves 0..255.

    Returns:
      f32 [n h w 3].
    """
    size = images.shape[1:3]
    chance_key, box_key, noise_key = jax.random.split(key, 3)
    keys = jax.random.split(box_key, len(images))
    inside = jax.vmap(lambda k: box_mask(draw_box(k, size), size))(keys)
    inside &= jax.random.bernoulli(chance_key, probability, (len(images), 1, 1))
    noise = jax.random.normal(noise_key, images.shape, jnp.float32)
    noise = noise * jnp.asarray(normalisation.std) + jnp.asarray(normalisation.mean)
    return jnp.where(inside[..., None], noise, images)


def draw_box(key: Array, size: tuple[int, int]) -> Array:
    """Draws i32 [4]: top, left, height and width; all 0 if no try fits into `size` (h, w)."""
    keys = jax.random.split(key, 4)
    shape, low, high = (TRIES,), math.log(RATIO[0]), math.log(RATIO[1])
    area = jax.random.uniform(keys[0], shape, minval=AREA[0], maxval=AREA[1]) * size[0] * size[1]
    ratio = jnp.exp(jax.random.uniform(keys[1], shape, minval=low, maxval=high))
    height = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    width = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (height < size[0]) & (width < size[1])
    first = jnp.argmax(fits)
    height, width = height[first], width[first]
    top = jax.random.randint(keys[2], (), 0, jnp.maximum(size[0] - height, 0) + 1)
    left = jax.random.randint(keys[3], (), 0, jnp.maximum(size[1] - width, 0) + 1)
    return jnp.where(jnp.any(fits), jnp.stack([top, left, height, width]), 0)


def box_mask(box: Array, size: tuple[int, int]) -> Array:
    """bool [h w], true inside `box` (top, left, height, width)."""
    rows, cols = jnp.arange(size[0])[:, None] - box[0], jnp.arange(size[1]) - box[1]
    return (rows >= 0) & (rows < box[2]) & (cols >= 0) & (cols < box[3])
