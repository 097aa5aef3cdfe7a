"""MixUp, CutMix, erasing and colour jitter against slow numpy on the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance

from attnseg.core.types import IMAGENET
from attnseg.tasks.colour_jitter import ORDERS, colour_jitter, jitter
from attnseg.tasks.erasing import AREA, box_mask, draw_box, random_erasing
from attnseg.tasks.mixing import (
    blend_mix,
    box_mix,
    draw_mix,
    mix_images,
    mix_targets,
    smoothed_one_hot,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (4, 12, 16, 3)).astype(np.float32)
LABELS = np.array([2, 0, 1, 2], np.int32)


def slow_targets(share, smoothing, k=3):
    """Row by row, class by class, as timm defines it."""
    rows = np.full((4, k), 0.0)
    for i, own in enumerate(LABELS):
        other = LABELS[3 - i]
        for c in range(k):
            on, off = 1 - smoothing + smoothing / k, smoothing / k
            first, second = (on if c == own else off), (on if c == other else off)
            rows[i, c] = share * first + (1 - share) * second
    return rows


def test_mixup():
    mix = blend_mix(jnp.float32(0.7), (12, 16))
    expected = [0.7 * IMAGES[i] + 0.3 * IMAGES[3 - i] for i in range(4)]
    np.testing.assert_allclose(mix_images(IMAGES, mix), expected, rtol=1e-5)
    targets = mix_targets(smoothed_one_hot(LABELS, 3, 0.1), mix)
    np.testing.assert_allclose(targets, slow_targets(0.7, 0.1), rtol=1e-5)


def test_cutmix_clips_the_box_and_corrects_the_share():
    share, cy, cx = 0.4, 2, 13
    height, width = int(12 * np.sqrt(0.6)) // 2 * 2, int(16 * np.sqrt(0.6)) // 2 * 2
    top, bottom = max(0, cy - height // 2), min(12, cy + height // 2)
    left, right = max(0, cx - width // 2), min(16, cx + width // 2)
    expected = IMAGES.copy()
    expected[:, top:bottom, left:right] = IMAGES[::-1, top:bottom, left:right]
    mix = box_mix(jnp.float32(share), (cy, cx), (12, 16))
    np.testing.assert_allclose(mix_images(IMAGES, mix), expected, rtol=1e-6)
    kept = 1 - (bottom - top) * (right - left) / (12 * 16)
    assert kept > share + 0.1  # the border cut much of the box off
    targets = mix_targets(smoothed_one_hot(LABELS, 3), mix)
    np.testing.assert_allclose(targets, slow_targets(kept, 0.0), rtol=1e-5)


def test_draws_are_a_function_of_the_key_and_of_the_wanted_kinds():
    draw = jax.jit(
        jax.vmap(lambda key: [draw_mix(key, (12, 16), *kinds) for kinds in
                              ((0.8, 1.0, 0.5), (0.8, 0.0), (0.0, 1.0), (0.8, 1.0, 0.0))])
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1), 800)
    both, mixup, cutmix, never = draw(keys)
    again = draw(keys)[0]
    np.testing.assert_array_equal(both.weights, again.weights)

    def cut(mix):  # a box has weights 0 and 1 alone
        return np.isin(np.asarray(mix.weights), (0.0, 1.0)).all((1, 2))

    assert 0.4 < cut(both).mean() < 0.6
    assert cut(cutmix).all() and cut(mixup).mean() < 0.02
    np.testing.assert_array_equal(never.weights, mixup.weights)
    for mix in (both, mixup, cutmix):  # images and labels are mixed alike
        np.testing.assert_allclose(mix.weights.mean((1, 2)), mix.share, atol=1e-5)
    assert abs(float(mixup.share.mean()) - 0.5) < 0.05
    # Beta(0.8, 0.8) has variance 1 / (4 (2 a + 1)).
    assert abs(float(mixup.share.var()) - 1 / (4 * 2.6)) < 0.015


def test_boxes_to_erase_have_the_wanted_area_and_ratio():
    boxes = np.asarray(jax.jit(jax.vmap(lambda k: draw_box(k, (60, 80))))(
        jax.random.split(jax.random.key(0), 500)))  # fmt: skip
    top, left, height, width = boxes.T
    assert (height > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 60).all() and (left + width <= 80).all()
    share, ratio = height * width / 4800, height / width
    assert AREA[0] * 0.8 < share.min() < 0.03 and 0.29 < share.max() < AREA[1] * 1.1
    assert 0.25 < ratio.min() < 0.4 and 2.4 < ratio.max() < 4
    expected = np.zeros((6, 8), bool)
    expected[1:4, 3:8] = True
    np.testing.assert_array_equal(box_mask(jnp.array([1, 3, 3, 5]), (6, 8)), expected)


def test_erasing_fills_with_normalised_noise_and_leaves_the_rest():
    images = jnp.full((400, 16, 16, 3), 7.0)
    out = np.asarray(jax.jit(lambda k: random_erasing(k, images, 0.25, IMAGENET))(
        jax.random.key(3)))  # fmt: skip
    changed = (out != 7.0).all(-1)
    assert 0.18 < changed.any((1, 2)).mean() < 0.32
    for mask in changed[changed.any((1, 2))]:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(cols)  # one box
        assert len(rows) == np.ptp(rows) + 1 and len(cols) == np.ptp(cols) + 1
    noise = (out[changed] - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


def test_jitter_is_that_of_pillow_in_every_order():
    image = RNG.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = (0.7, 1.4, 1.3)
    run = jax.jit(jitter)
    for index, order in enumerate(ORDERS):
        expected = Image.fromarray(image)
        for i in order:
            expected = enhance[i](expected).enhance(factors[i])
        out = run(jnp.float32(image), index, jnp.array(factors))
        # Pillow cuts off after each step.
        np.testing.assert_allclose(out, np.float32(expected), atol=4)


def test_jitter_draws_for_each_image():
    images = jnp.broadcast_to(jnp.float32(IMAGES[0]), (6, 12, 16, 3))
    run = jax.jit(colour_jitter, static_argnums=2)
    out = np.asarray(run(jax.random.key(0), images, 0.4))
    assert len({row.tobytes() for row in out}) == 6
    assert out.min() >= 0 and out.max() <= 255
    np.testing.assert_array_equal(out, run(jax.random.key(0), images, 0.4))
