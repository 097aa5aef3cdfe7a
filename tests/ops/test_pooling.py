"""Operators of the decoder heads against slow, obvious versions in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.dilated_depthwise import dilated_depthwise_conv
from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.fusion_conv import fusion_conv, is_cheaper
from attnseg.ops.pixel_attention import channel_attention, linear_attention, pixel_attention
from attnseg.ops.pooling import (
    adaptive_average_pools,
    average_patches,
    max_pool,
    pooling_bins,
)
from attnseg.ops.resize import bilinear_matrix


def slow_pool(x, side):
    n, h, w, c = x.shape
    out = np.zeros((n, side, side, c))
    for i in range(side):
        for j in range(side):
            rows = slice(math.floor(i * h / side), math.ceil((i + 1) * h / side))
            columns = slice(math.floor(j * w / side), math.ceil((j + 1) * w / side))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def slow_windows(x, side, stride, padding, combine):
    x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=np.nan)
    rows, columns = ((size - side) // stride + 1 for size in x.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, x.shape[3]))
    for i in range(rows):
        for j in range(columns):
            a, b = i * stride, j * stride
            out[:, i, j] = combine(x[:, a : a + side, b : b + side], axis=(1, 2))
    return out


@pytest.mark.parametrize("padding", [[(0, 0), (0, 0)], [(0, 1), (0, 0)], [(1, 1), (1, 2)]])
def test_windows(padding):
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)) - 5  # zeros would win
    found = max_pool(jnp.float32(x), 3, 2, padding)
    np.testing.assert_allclose(found, slow_windows(x, 3, 2, padding, np.nanmax), atol=1e-6)
    found = average_patches(jnp.float32(x), 2, padding)
    np.testing.assert_allclose(found, slow_windows(x, 2, 2, padding, np.nanmean), atol=1e-6)


def slow_pool_gradient(x, grad, side, stride, padding):
    """What each window hands to the first of its largest numbers, row by row."""
    x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=-np.inf)
    out = np.zeros_like(x)
    for n, i, j, c in np.ndindex(grad.shape):
        window = x[n, i * stride : i * stride + side, j * stride : j * stride + side, c]
        a, b = np.unravel_index(np.argmax(window), window.shape)
        out[n, i * stride + a, j * stride + b, c] += grad[n, i, j, c]
    (above, below), (before, after) = padding
    return out[:, above : out.shape[1] - below, before : out.shape[2] - after]


@pytest.mark.parametrize(
    ("shape", "side", "stride", "padding"),
    [
        ((2, 7, 9, 3), 3, 2, [(1, 1), (1, 1)]),
        ((1, 8, 8, 2), 3, 2, [(1, 2), (1, 2)]),
        ((1, 8, 9, 2), 3, 1, [(1, 1), (0, 2)]),
        ((1, 11, 10, 2), 2, 3, [(0, 1), (0, 0)]),
    ],
)
def test_the_gradient_of_a_maximum(shape, side, stride, padding):
    """Also of equal numbers, which maps after a ReLU are full of."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.integers(-3, 4, shape), 0).astype(np.float32)
    out, vjp = jax.vjp(lambda x: max_pool(x, side, stride, padding), x)
    grad = rng.normal(size=out.shape).astype(np.float32)
    expected = slow_pool_gradient(x, grad, side, stride, padding)
    np.testing.assert_allclose(vjp(grad)[0], expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(12, 18), (7, 13), (64, 5), (1, 2)])
def test_adaptive_pools(grid):
    x = np.random.default_rng(0).normal(size=(2, *grid, 3))
    sides = (1, 2, 3, 6)
    for side, pool in zip(sides, adaptive_average_pools(jnp.float32(x), sides), strict=True):
        np.testing.assert_allclose(pool, slow_pool(x, side), atol=1e-6)


def test_pools_of_bfloat16_are_summed_in_float32():
    x = jnp.ones((1, 97, 97, 2), jnp.bfloat16)  # a bfloat16 counts no further than 256
    for pool in adaptive_average_pools(x, (1, 6)):
        assert pool.dtype == jnp.bfloat16 and np.all(np.asarray(pool) == 1)
    with pytest.raises(ValueError, match="read-only"):
        pooling_bins(5, 2)[0, 0] = 2.0


def slow_fusion(maps, kernel, size, align_corners):
    grown = []
    for x in maps:
        rows, columns = (
            np.float64(bilinear_matrix(s, t, align_corners))
            for s, t in zip(x.shape[1:3], size, strict=True)
        )
        grown.append(np.einsum("Hh,Ww,nhwc->nHWc", rows, columns, x))
    half = kernel.shape[0] // 2
    padded = np.pad(np.concatenate(grown, -1), [(0, 0), (half, half), (half, half), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize(
    "grids",
    [
        [(9, 13), (1, 1), (2, 2), (3, 3), (6, 6)],  # a pyramid; the last is not smaller
        [(1, 1), (9, 13), (5, 7), (9, 13), (2, 3)],
        [(5, 7), (3, 4)],  # nothing on the grid itself
        [(9, 13), (9, 13)],
    ],
)
def test_fusion_is_convolution_of_the_enlarged_concatenation(grids, taps, align_corners):
    rng = np.random.default_rng(0)
    size, widths = (9, 13), range(24, 24 + len(grids))
    maps = [rng.normal(size=(2, *g, c)) for g, c in zip(grids, widths, strict=True)]
    kernel = rng.normal(size=(taps, taps, sum(widths), 4)) / taps / sum(widths) ** 0.5

    @jax.jit
    def run(maps, kernel, grad):
        out, vjp = jax.vjp(
            lambda m, k: fusion_conv(m, k, size, align_corners=align_corners), maps, kernel
        )
        return out, vjp(grad)

    grad = rng.normal(size=(2, *size, 4))
    single = jax.tree_util.tree_map(jnp.float32, (maps, kernel, grad))
    out, (grad_maps, grad_kernel) = run(*single)
    np.testing.assert_allclose(out, slow_fusion(maps, kernel, size, align_corners), atol=1e-5)
    # Linear in each argument: <grad, f(d)> must equal <gradient, d>.
    directions = [rng.normal(size=x.shape) for x in maps]
    wanted = np.sum(grad * slow_fusion(directions, kernel, size, align_corners))
    got = sum(np.sum(np.float64(g) * d) for g, d in zip(grad_maps, directions, strict=True))
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    direction = rng.normal(size=kernel.shape)
    wanted = np.sum(grad * slow_fusion(maps, direction, size, align_corners))
    np.testing.assert_allclose(np.sum(np.float64(grad_kernel) * direction), wanted, rtol=1e-4)


def test_fusion_chooses_the_cheaper_order():
    assert is_cheaper((6, 6), (64, 64), 512, 3) and is_cheaper((32, 32), (64, 64), 512, 3)
    assert not is_cheaper((64, 64), (64, 64), 512, 3)
    assert not is_cheaper((6, 6), (2, 3), 512, 3)  # a map that shrinks
    assert not is_cheaper((128, 256), (256, 512), 64, 3)  # large matrices, few channels


@pytest.mark.parametrize(("grid", "dilation"), [((9, 13), 1), ((9, 13), 2), ((5, 30), 12)])
def test_dilated_depthwise_equals_grouped_convolution(grid, dilation):
    rng = np.random.default_rng(0)
    x, grad = (jnp.float32(rng.normal(size=(2, *grid, 4))) for _ in range(2))
    kernel = jnp.float32(rng.normal(size=(3, 3, 1, 4)))

    @jax.jit
    def both(x, kernel, grad):
        return [
            (out, *vjp(grad))
            for f in (dilated_depthwise_conv, direct_conv)
            for out, vjp in [jax.vjp(lambda x, k, f=f: f(x, k, dilation=dilation), x, kernel)]
        ]

    for ours, theirs in zip(*both(x, kernel, grad), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_attention_over_pixels_and_channels():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 2, 5, 4, 3))
    value = rng.normal(size=(2, 5, 4, 6))
    flat = [x.reshape(2, 20, -1) for x in (query, key, value)]
    single = [jnp.float32(x) for x in (query, key, value)]
    energy = np.einsum("nld,nsd->nls", *flat[:2])
    for function, weights in ((pixel_attention, softmax(energy)), (linear_attention, energy / 20)):
        expected = (weights @ flat[2]).reshape(value.shape)
        np.testing.assert_allclose(jax.jit(function)(*single), expected, atol=1e-5)
    # DANet's formula: each logit is subtracted from the largest of its row.
    energy = np.einsum("nlc,nld->ncd", flat[2], flat[2])
    weights = softmax(energy.max(-1, keepdims=True) - energy)
    expected = np.einsum("ncd,nld->nlc", weights, flat[2]).reshape(value.shape)
    np.testing.assert_allclose(jax.jit(channel_attention)(single[2]), expected, atol=1e-5)


def test_attention_in_bfloat16_keeps_its_softmax_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 30, 30, 8)), jnp.bfloat16)
    for function in (lambda x: pixel_attention(x, x, x), channel_attention):
        half, full = jax.jit(function)(x), jax.jit(function)(x.astype(jnp.float32))
        assert half.dtype == jnp.bfloat16
        assert np.abs(half.astype(jnp.float32) - full).mean() < 0.01 * np.abs(full).mean()
