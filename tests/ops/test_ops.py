"""Operators against slow, obvious versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.activation import gelu
from attnseg.ops.attention import dot_product_attention
from attnseg.ops.depthwise import _grouped_conv, _kernel_gradient_conv, depthwise_conv
from attnseg.ops.resize import bilinear_matrix, resize_bilinear

SHAPES = [
    ((2, 9, 13, 6), (3, 3)),
    ((5, 8, 8, 4), (5, 5)),
    ((3, 7, 10, 4), (1, 7)),
    ((1, 6, 5, 3), (7, 1)),
]


def slow_depthwise(x, kernel):
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, [(0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])
    out = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + rows, j : j + columns]
            out[:, i, j] = np.einsum("nijc,ijc->nc", window, kernel[:, :, 0])
    return out


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_depthwise_conv_and_its_gradients(shape, size):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, *shape))
    kernel = rng.normal(size=(*size, 1, shape[-1]))
    out, vjp = jax.vjp(depthwise_conv, jnp.float32(x), jnp.float32(kernel))
    np.testing.assert_allclose(out, slow_depthwise(x, kernel), atol=1e-5)
    grad_x, grad_kernel = vjp(jnp.float32(grad))
    # The map is linear in each argument: <grad, f(dx)> must equal <grad_x, dx>.
    dx, dk = rng.normal(size=shape), rng.normal(size=kernel.shape)
    np.testing.assert_allclose(
        np.sum(grad * slow_depthwise(dx, kernel)), np.sum(np.float64(grad_x) * dx), rtol=1e-4
    )
    np.testing.assert_allclose(
        np.sum(grad * slow_depthwise(x, dk)), np.sum(np.float64(grad_kernel) * dk), rtol=1e-4
    )


def test_both_ways_of_depthwise_convolution_agree():
    """What other platforms run, executed here."""
    rng = np.random.default_rng(1)
    x, grad = (jnp.float32(rng.normal(size=(4, 8, 9, 6))) for _ in range(2))
    kernel = jnp.float32(rng.normal(size=(3, 3, 1, 6)))
    out, vjp = jax.vjp(depthwise_conv, x, kernel)
    np.testing.assert_allclose(out, _grouped_conv(x, kernel), atol=1e-5)
    np.testing.assert_allclose(vjp(grad)[1], _kernel_gradient_conv(x, grad, kernel), atol=1e-4)


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


def test_attention_matches_its_definition():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 3, 4, 6))
    key, value = rng.normal(size=(2, 2, 2, 2, 6))
    out = dot_product_attention(*(jnp.float32(a) for a in (query, key, value)), 2)
    for n in range(2):
        for m in range(2):
            channels = slice(3 * m, 3 * m + 3)
            q, k, v = (a[n, ..., channels].reshape(-1, 3) for a in (query, key, value))
            weights = np.exp(q @ k.T / 3**0.5)
            expected = weights / weights.sum(1, keepdims=True) @ v
            np.testing.assert_allclose(out[n, ..., channels].reshape(-1, 3), expected, atol=1e-5)


def test_gelu_is_the_exact_one():
    from math import erf

    x = np.linspace(-6, 6, 241)
    exact = [0.5 * v * (1 + erf(v / 2**0.5)) for v in x]
    np.testing.assert_allclose(gelu(jnp.float32(x)), exact, atol=5e-7)
