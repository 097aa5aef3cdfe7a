"""Operators against slow, obvious versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.divisors import largest_divisor
from attnseg.ops.resize import bilinear_matrix, resize_bilinear


def test_bilinear_matches_its_definition():
    for source, target, corners in ((3, 12, False), (5, 7, False), (9, 4, False), (5, 9, True)):
        matrix = bilinear_matrix(source, target, corners)
        signal = np.random.default_rng(0).normal(size=source)
        for t in range(target):
            at = t * (source - 1) / (target - 1) if corners else (t + 0.5) * source / target - 0.5
            at = min(max(at, 0.0), source - 1)
            low = int(at)
            high = min(low + 1, source - 1)
            value = signal[low] * (1 - (at - low)) + signal[high] * (at - low)
            np.testing.assert_allclose(matrix[t] @ signal, value, atol=1e-6)


def test_resize_is_separable_and_keeps_dtype():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    out = resize_bilinear(x, (12, 7))
    expected = np.einsum("Hh,Ww,nhwc->nHWc", bilinear_matrix(3, 12), bilinear_matrix(5, 7), x)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert resize_bilinear(x.astype(jnp.bfloat16), (6, 10)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(resize_bilinear(x, (3, 5)), x)


# Sums of neighbours in both directions, in one with products in the other, and products alone.
SIZES = [(6, 10), (12, 5), (3, 20), (48, 15), (12, 7), (5, 80), (51, 85), (3, 90)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_and_its_gradient_equal_two_matrices(size, align_corners):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, *size, 4))
    rows, columns = (
        np.float64(bilinear_matrix(source, target, align_corners))
        for source, target in zip((3, 5), size, strict=True)
    )
    out = np.einsum("Hh,Ww,nhwc->nHWc", rows, columns, x)
    back = np.einsum("Hh,Ww,nHWc->nhwc", rows, columns, grad)

    def both(x, grad):
        out, vjp = jax.vjp(lambda x: resize_bilinear(x, size, align_corners=align_corners), x)
        return out, *vjp(grad)

    for dtype, accuracy in ((jnp.float32, 1e-6), (jnp.bfloat16, 0.02)):
        got = jax.jit(both)(dtype(x), dtype(grad))
        assert all(a.dtype == dtype for a in got)
        for a, expected in zip(got, (out, back), strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(np.float64(a), expected, atol=accuracy * scale)


def test_an_enlarged_map_is_summed_in_one_pass():
    maps = [jax.ShapeDtypeStruct((1, 64 // i, 64 // i, 64), jnp.float32) for i in (1, 2, 4)]

    def total(x, *others):
        return sum((resize_bilinear(y, (64, 64)) for y in others), x)

    compiled = jax.jit(total).lower(*maps).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 64 * 64 * 64


def test_largest_divisor():
    assert [largest_divisor(12, limit) for limit in (0, 1, 4, 5, 7, 12, 99)] == [
        1, 1, 4, 4, 6, 12, 12,
    ]  # fmt: skip
    assert largest_divisor(7, 6) == 1
