"""Colour changes against Python's colorsys, in float64."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.types import IMAGENET
from attnseg.tasks.augment import (
    Distortion,
    distort,
    draw_distortion,
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


def slow_distortion(rgb, drawn):
    """mmsegmentation's PhotoMetricDistortion on rows of RGB, without its rounding to uint8."""
    brightness, contrast_first, saturation, hue, contrast_last = drawn
    rgb = np.clip(rgb + brightness, 0, 255)
    rgb = np.clip(rgb * contrast_first, 0, 255)
    rgb = through_hsv(rgb, lambda h, s, v: (h, min(s * saturation, 1.0), v))
    rgb = through_hsv(rgb, lambda h, s, v: ((h + hue / 180) % 1.0, s, v))
    return np.clip(rgb * contrast_last, 0, 255)


def test_distortion_equals_the_slow_one():
    rgb, run = pixels(), jax.jit(distort)
    image = jnp.float32(rgb).reshape(8, 8, 3)
    for drawn in (
        (0.0, 1.0, 1.0, 0.0, 1.0),
        (31.0, 1.4, 0.6, 17.0, 1.0),
        (-31.0, 1.0, 1.5, -18.0, 0.5),
        (20.0, 0.5, 1.3, 5.0, 1.0),
        (0.0, 1.0, 0.5, 12.0, 1.5),
    ):
        ours = run(image, Distortion(*map(jnp.float32, drawn))).reshape(-1, 3)
        np.testing.assert_allclose(ours, slow_distortion(rgb, drawn), atol=2e-2)


def test_draws_are_mmsegmentations():
    """Each change half of the time, over the whole of its range; contrast in one place."""
    draws = jax.jit(jax.vmap(draw_distortion))(jax.random.split(jax.random.key(0), 4000))
    ranges = {"brightness": (-32, 32, 0), "saturation": (0.5, 1.5, 1), "hue": (-18, 18, 0)}
    for name, (low, high, off) in ranges.items():
        values = np.asarray(getattr(draws, name))
        on = values[values != off]
        assert abs(len(on) / 4000 - 0.5) < 0.04, name
        width = 0.01 * (high - low)
        assert low <= on.min() < low + width and high - width < on.max() <= high, name
        assert abs(on.mean() - (low + high) / 2) < 4 * width, name
    first, last = np.asarray(draws.contrast_first), np.asarray(draws.contrast_last)
    assert not np.any((first != 1) & (last != 1))
    for values in (first, last):
        assert abs(np.mean(values != 1) - 0.25) < 0.04
        assert 0.5 <= values.min() < 0.52 and 1.48 < values.max() <= 1.5
    # Independent of one another.
    on = np.stack([np.asarray(x) != off for x, off in zip(draws, (0, 1, 1, 0, 1), strict=True)])
    correlation = np.corrcoef(on[[0, 2, 3]])
    assert np.abs(correlation - np.eye(3)).max() < 0.06


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
