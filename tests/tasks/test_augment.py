"""Colour changes against Python's colorsys, in float64."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.types import IMAGENET
from attnseg.tasks.augment import (
    normalise,
    photometric_distortion,
    rotate_hue,
    scale_saturation,
)


def pixels():
    rng = np.random.default_rng(0)
    greys = np.repeat(rng.uniform(0, 255, (4, 1)), 3, axis=1)
    return np.concatenate([rng.uniform(0, 255, (60, 3)), greys])


def through_hsv(rgb, change):
    out = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(p / 255)))) for p in rgb]
    return np.array(out) * 255


def test_saturation_and_hue_are_those_of_hsv():
    rgb = pixels()
    image = jnp.float32(rgb).reshape(8, 8, 3)
    for factor in (0.5, 1.0, 1.5):
        expected = through_hsv(rgb, lambda h, s, v, f=factor: (h, min(s * f, 1.0), v))
        ours = scale_saturation(image, factor).reshape(-1, 3)
        np.testing.assert_allclose(ours, expected, atol=1e-2)
    for turn in (-0.6, 0.0, 0.6):
        expected = through_hsv(rgb, lambda h, s, v, t=turn: ((h + t / 6) % 1.0, s, v))
        np.testing.assert_allclose(rotate_hue(image, turn).reshape(-1, 3), expected, atol=1e-2)


def test_distortion_is_keyed_and_different_for_each_example():
    image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3), maxval=255.0)
    images = jnp.repeat(image, 64, axis=0)
    first = photometric_distortion(jax.random.key(1), images)
    again = photometric_distortion(jax.random.key(1), images)
    other = photometric_distortion(jax.random.key(2), images)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() > -1e-3 and first.max() < 255.001
    distinct = {np.asarray(x).tobytes() for x in first}
    assert len(distinct) > 50  # one in sixteen keeps its colours
    # On average nothing gets brighter or darker by much.
    assert abs(float(first.mean() - images.mean())) < 12


def test_normalise():
    out = normalise(jnp.full((1, 1, 1, 3), 255, jnp.uint8), IMAGENET)
    expected = (255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    np.testing.assert_allclose(out[0, 0, 0], expected, rtol=1e-6)
