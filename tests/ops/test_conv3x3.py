"""The 3x3 convolution and its gradients against NumPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.layers.conv import Conv
from attnseg.ops import conv3x3 as ops
from attnseg.ops.conv3x3 import conv3x3
from attnseg.ops.direct_conv import direct_conv


def slow(x, kernel, grad, dilation):
    """Sum over the nine taps; result, gradient of the pixels, gradient of the kernel."""
    _, h, w, _ = x.shape
    d = dilation
    around = [(0, 0), (d, d), (d, d), (0, 0)]
    padded = np.pad(x, around)
    out = np.zeros_like(grad)
    x_grad, kernel_grad = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in itertools.product(range(3), repeat=2):
        place = (slice(None), slice(i * d, i * d + h), slice(j * d, j * d + w))
        out += padded[place] @ kernel[i, j]
        x_grad[place] += grad @ kernel[i, j].T
        kernel_grad[i, j] = np.einsum("nhwc,nhwo->co", padded[place], grad)
    return out, x_grad[:, d : d + h, d : d + w], kernel_grad


def ours(x, kernel, grad, dilation):
    @jax.jit
    def both(x, kernel, grad):
        out, vjp = jax.vjp(lambda x, kernel: conv3x3(x, kernel, dilation), x, kernel)
        return out, *vjp(grad)

    return both(*(jnp.float32(a) for a in (x, kernel, grad)))


def arrays(n, h, w, c, o):
    rng = np.random.default_rng(0)
    return (rng.normal(size=s) for s in ((n, h, w, c), (3, 3, c, o), (n, h, w, o)))


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 3), (13, 7)])
def test_any_map_by_tiles(size, dilation, monkeypatch):
    monkeypatch.setattr(ops, "_pays", lambda *_: True)
    x, kernel, grad = arrays(2, *size, 5, 3)
    found = ours(x, kernel, grad, dilation)
    for a, b in zip(found, slow(x, kernel, grad, dilation), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(("size", "channels", "dilation"), [(16, 64, 1), (15, 64, 2), (7, 512, 1)])
def test_where_tiles_pay(size, channels, dilation):
    x, kernel, grad = arrays(1, size, size, channels, channels)
    assert ops._pays(jnp.float32(x), kernel, dilation)
    found = ours(x, kernel, grad, dilation)
    for a, b in zip(found, slow(x, kernel, grad, dilation), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6 * np.abs(b).max())


def test_products_are_saved():
    x, kernel, _ = arrays(1, 16, 16, 256, 256)
    arguments = jnp.float32(x), jnp.float32(kernel)
    if jax.default_backend() != "cpu":
        pytest.skip("tiles are for the CPU")

    def flops(function):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    direct = flops(direct_conv)
    assert flops(conv3x3) < 0.6 * direct


@pytest.mark.parametrize(
    ("shape", "dtype", "dilation"),
    [
        ((1, 16, 16, 16), "float32", 1),  # few channels
        ((8, 64, 64, 64), "float32", 1),  # beyond the cache
        ((1, 17, 17, 256), "float32", 4),  # tiles beyond the edge
        ((2, 97, 97, 2048), "float32", 1),  # too much memory
        ((0, 16, 16, 256), "float32", 1),
        ((1, 16, 16, 256), "bfloat16", 1),
    ],
)
def test_where_they_do_not(shape, dtype, dilation):
    assert not ops._pays(jnp.zeros(shape, dtype), np.zeros((3, 3, shape[3], shape[3])), dilation)


def test_the_layer_uses_it():
    x = jax.random.normal(jax.random.key(0), (1, 12, 8, 64))
    layer = Conv(64, 3, dilation=2)
    params = layer.init(jax.random.key(1), x)["params"]
    traced = jax.make_jaxpr(lambda x: layer.apply({"params": params}, x))(x)
    assert "custom_vjp" in str(traced)
    expected = conv3x3(x, params["kernel"], 2) + params["bias"]
    np.testing.assert_array_equal(layer.apply({"params": params}, x), expected)
