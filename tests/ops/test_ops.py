"""Operators against slow, obvious versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_largest_divisor():
    assert [largest_divisor(12, limit) for limit in (0, 1, 4, 5, 7, 12, 99)] == [
        1, 1, 4, 4, 6, 12, 12,
    ]  # fmt: skip
    assert largest_divisor(7, 6) == 1
