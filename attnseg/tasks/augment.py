"""Photometric change and normalisation of image batches, on the device."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Normalisation

BRIGHTNESS = 32.0  # added, in units of 0..255
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 18.0  # rotation, in units of 2 degrees as OpenCV has them


def normalise(images: Array, normalisation: Normalisation) -> Array:
    """[n h w 3] in 0..255 -> float32 with mean 0 and deviation 1 per channel."""
    mean = jnp.asarray(normalisation.mean, jnp.float32)
    scale = 1.0 / jnp.asarray(normalisation.std, jnp.float32)
    return (images.astype(jnp.float32) - mean) * scale


def scale_saturation(image: Array, factor: Array) -> Array:
    """Multiplies HSV saturation of [h w 3], cut at 1; hue and value stay."""
    value = jnp.max(image, axis=-1, keepdims=True)
    chroma = value - jnp.min(image, axis=-1, keepdims=True)
    limit = value / jnp.maximum(chroma, 1e-6)  # the factor at which saturation is 1
    return value - (value - image) * jnp.minimum(factor, limit)


def rotate_hue(image: Array, turn: Array) -> Array:
    """Rotates HSV hue of [h w 3] by `turn` sixths of the circle; saturation and value stay."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)
    safe = jnp.maximum(chroma, 1e-6)
    hue = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    # Channel c is value - chroma * clip(min(k, 4 - k), 0, 1) with k = (offset + hue) mod 6.
    k = (jnp.asarray([5.0, 3.0, 1.0]) + hue[..., None] + turn) % 6.0
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


class Distortion(NamedTuple):
    """What `photometric_distortion` drew for one example, f32 []; what is off has no effect."""

    brightness: Array  # added
    contrast_first: Array  # factor, before saturation and hue
    saturation: Array  # factor
    hue: Array  # added, in units of 2 degrees
    contrast_last: Array  # factor, after saturation and hue


def draw_distortion(key: Array) -> Distortion:
    """Each change with probability 1/2; contrast at one of its two places, as likely each."""
    keys = jax.random.split(key, 9)

    def maybe(index: int, low: float, high: float, off: float) -> Array:
        value = jax.random.uniform(keys[index], (), jnp.float32, low, high)
        return jnp.where(jax.random.bernoulli(keys[index + 5]), value, off)

    contrast, first = maybe(1, *CONTRAST, 1.0), jax.random.bernoulli(keys[4])
    return Distortion(
        brightness=maybe(0, -BRIGHTNESS, BRIGHTNESS, 0.0),
        contrast_first=jnp.where(first, contrast, 1.0),
        saturation=maybe(2, *SATURATION, 1.0),
        hue=maybe(3, -HUE, HUE, 0.0),
        contrast_last=jnp.where(first, 1.0, contrast),
    )


def distort(image: Array, drawn: Distortion) -> Array:
    """Applies the changes to float32 [h w 3] in 0..255, each cut at the ends of the range."""
    image = jnp.clip(image + drawn.brightness, 0.0, 255.0)
    image = jnp.clip(image * drawn.contrast_first, 0.0, 255.0)
    image = scale_saturation(image, drawn.saturation)
    image = rotate_hue(image, drawn.hue / 30.0)
    return jnp.clip(image * drawn.contrast_last, 0.0, 255.0)


def photometric_distortion(key: Array, images: Array) -> Array:
    """Random brightness, contrast, saturation and hue, each with probability 1/2.

    The augmentation of SSD (arXiv:1512.02325, section 2.2) as mmsegmentation has it, without the
    rounding to uint8 between steps. Every example draws its own numbers.

    Args:
      key: PRNG key.
      images: [n h w 3] in 0..255.

    Returns:
      float32 [n h w 3] in 0..255.
    """
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(distort)(images.astype(jnp.float32), jax.vmap(draw_distortion)(keys))
