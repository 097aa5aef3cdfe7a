"""Blocks of windows against the same by plain numpy loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.mesh import make_mesh
from attnseg.data import EvalResize
from attnseg.infer import Programs, Views, blocks, label_map, probabilities, slide
from attnseg.infer.axis import Axis, window_starts
from attnseg.ops.resize import bilinear_matrix

K, STRIDE = 5, 4


def network(weights, images):
    """Logits at a quarter of the size that depend on place in the window and on neighbours."""
    x = images.astype(jnp.float32) / 255
    x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 8, 8, 1), (1, STRIDE, STRIDE, 1), "SAME")
    gh, gw = x.shape[1:3]
    place = jnp.linspace(-1, 1, gh)[:, None] * jnp.linspace(0, 3, gw)[None]
    return (x @ weights) * 0.3 + place[None, :, :, None] * jnp.arange(K)


WEIGHTS = np.random.default_rng(0).normal(size=(3, K)).astype(np.float32)


def picture(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grown(x, size, axis):
    return np.moveaxis(np.tensordot(bilinear_matrix(x.shape[axis], size), x, (1, axis)), 0, axis)


def resized(x, size):
    return grown(grown(x.astype(np.float64), size[0], 0), size[1], 1)


def by_loop(image, views, size):
    """What mmsegmentation does, with maps of the whole image."""
    results = []
    for scale in views.scales:
        scaled = views.fit.resized(image, scale)
        for flip in (False, True)[: 1 + views.flip]:
            x = scaled[:, ::-1] if flip else scaled
            logits = resized(by_windows(x, views), size)
            results.append(logits[:, ::-1] if flip else logits)
    if len(results) == 1:
        return results[0]
    shares = [np.exp(r - r.max(-1, keepdims=True)) for r in results]
    return np.mean([s / s.sum(-1, keepdims=True) for s in shares], axis=0)


def by_windows(image, views):
    height, width = image.shape[:2]
    (wh, ww), (sh, sw) = views.window, views.strides
    total, count = np.zeros((height, width, K)), np.zeros((height, width, 1))
    for i in range(max(height - wh + sh - 1, 0) // sh + 1):
        for j in range(max(width - ww + sw - 1, 0) // sw + 1):
            bottom, right = min(i * sh + wh, height), min(j * sw + ww, width)
            top, left = max(bottom - wh, 0), max(right - ww, 0)
            part = image[None, top:bottom, left:right]
            logits = np.asarray(network(WEIGHTS, part))[0]
            total[top:bottom, left:right] += resized(logits, (bottom - top, right - left))
            count[top:bottom, left:right] += 1
    return total / count


def by_blocks(programs, image, views, size=None):
    size = size or image.shape[:2]
    result = np.full((*size, K), np.nan, np.float32)
    for b in blocks(programs, WEIGHTS, image, views, size):
        values = np.asarray(b.values)[: b.height, : b.width]
        result[b.top : b.top + b.height, b.left : b.left + b.width] = values
    return result


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(slide, "BLOCK", 32)


@pytest.fixture(scope="module")
def programs():
    return Programs(network, batch=2)


@pytest.mark.parametrize(
    "size, window, stride",
    [
        ((75, 101), (32, 40), (20, 30)),  # overlaps, odd sides, the last window moved back
        ((64, 96), (32, 32), (32, 32)),  # side by side
        ((75, 101), (32, 200), (21, 100)),  # one window across
        ((20, 101), (32, 32), (7, 9)),  # lower than a window, up to five over a pixel
        ((19, 23), (32, 32), (16, 16)),  # smaller than a window
    ],
)
def test_windows_equal_the_loop(programs, size, window, stride):
    views = Views("slide", window, stride)
    image = picture(*size)
    expected = by_loop(image, views, size)
    got = by_blocks(programs, image, views)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    np.testing.assert_array_equal(
        label_map(programs, WEIGHTS, image, views), np.argmax(got, axis=-1)
    )


def test_windows_at_another_size_of_labels(programs):
    views = Views("slide", (32, 40), (20, 30), fit=EvalResize((60, 90), keep_ratio=False))
    image = picture(50, 70)
    expected = by_loop(image, views, (77, 41))
    np.testing.assert_allclose(by_blocks(programs, image, views, (77, 41)), expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_several_views_are_the_mean_of_their_probabilities(programs, mode):
    image, size = picture(52, 75), (60, 66)
    settings = {"mode": mode, "window": (24, 30), "stride": (15, 20)}
    scales = (0.5, 1.0, 1.5)
    got = by_blocks(programs, image, Views(scales=scales, flip=True, **settings), size)
    if mode == "slide":  # the whole image goes to the labels' size in one step
        expected = by_loop(image, Views(scales=scales, flip=True, **settings), size)
        np.testing.assert_allclose(got, expected, atol=2e-5)
    parts = []
    for scale in scales:
        one = Views(scales=(scale,), **settings)
        parts.append(probabilities(programs, WEIGHTS, image, one, size))
        mirrored = probabilities(programs, WEIGHTS, image[:, ::-1], one, size)
        # Mirroring commutes with resampling up to the rounding of pixels to whole numbers.
        parts.append(mirrored[:, ::-1])
    np.testing.assert_allclose(got, np.mean(parts, 0), atol=5e-3)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def test_whole_is_the_network_and_one_resize(programs):
    image = picture(52, 75)
    logits = np.asarray(network(WEIGHTS, image[None]))[0]
    whole = by_blocks(programs, image, Views(), (60, 66))
    np.testing.assert_allclose(whole, resized(logits, (60, 66)), atol=2e-5)


def test_modes_agree_where_they_must(programs):
    image = picture(52, 75)
    for size in ((52, 75), (60, 66)):
        whole = by_blocks(programs, image, Views(), size)
        one_window = Views("slide", (64, 80), (10, 10))
        np.testing.assert_array_equal(by_blocks(programs, image, one_window, size), whole)
        shares = probabilities(programs, WEIGHTS, image, Views(), size)
        twice = by_blocks(programs, image, Views(scales=(1.0, 1.0)), size)
        np.testing.assert_allclose(twice, shares, atol=1e-6)


def test_devices_share_the_windows(programs):
    image = picture(75, 101)
    views = Views("slide", (32, 40), (20, 30), flip=True)
    shared = Programs(network, make_mesh(devices=jax.devices()[:4]), batch=3)
    one, four = (by_blocks(p, image, views) for p in (programs, shared))
    np.testing.assert_allclose(one, four, atol=1e-6)
    assert [shapes[-1] for shapes in shared.network.shapes] == [(4, 32, 40, 3)]


def test_buckets_fill_up_and_share_programs():
    views = Views(bucket=32)
    programs = Programs(network)
    for size in ((40, 50), (61, 64), (33, 33)):
        image = picture(*size)
        filled = np.empty((64, 64, 3), np.uint8)
        filled[:] = slide.IMAGE_PADDING
        filled[: size[0], : size[1]] = image
        logits = np.asarray(network(WEIGHTS, filled[None]))[0]
        expected = resized(logits, (64, 64))[: size[0], : size[1]]
        np.testing.assert_allclose(by_blocks(programs, image, views), expected, atol=2e-5)
    assert programs.network.compiled == 1
    # With a block of 32x32 for all of them, and places that are numbers to the program.
    assert programs.compiled <= 4


def test_sizes_share_programs_in_windows():
    programs = Programs(network, batch=2)
    views = Views("slide", (32, 32), (24, 24))
    for size in ((70, 90), (64, 99), (101, 33)):
        label_map(programs, WEIGHTS, picture(*size), views)
    assert programs.compiled == 2  # the network, and a block


def test_starts_cover_every_pixel():
    for length in range(1, 40):
        for window in (1, 5, 8, 50):
            for stride in range(1, min(window, 9) + 1):
                starts = window_starts(length, window, stride)
                ends = [min(s + window, length) for s in starts]
                assert starts[0] == 0 and ends[-1] == length
                assert all(b <= e for b, e in zip(starts[1:], ends, strict=False))
    assert window_starts(2048, 1024, 768) == (0, 768, 1024)


def test_weights_of_a_pixel_add_up_to_one():
    axis = Axis(101, 77, 32, 13)
    first, count = -3, 90
    total = sum(axis.weights(i, 8, first, count).sum(1) for i in range(len(axis.starts)))
    expected = [1.0 if 0 <= first + t < 77 else 0.0 for t in range(count)]
    np.testing.assert_allclose(total, expected, atol=1e-12)


def test_what_means_nothing_is_said():
    with pytest.raises(UserError, match="leaves gaps"):
        Views("slide", (32, 32), (33, 32))
    with pytest.raises(UserError, match="eval.scales"):
        Views(scales=(0.0,))
    with pytest.raises(UserError, match="eval.mode"):
        Views("tiles")
