"""The convolution with a stride and its gradients against NumPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.compiler import compiler_options
from attnseg.layers.conv import Conv
from attnseg.ops.layer_norm import layer_norm
from attnseg.ops.platforms import PLATFORMS
from attnseg.ops.strided_conv import _gradients, strided_conv


def slow(x, kernel, grad, stride):
    """Sum over the taps; result, gradient of the pixels, gradient of the kernel."""
    side = len(kernel)
    edge = side // 2
    _, rows, columns, _ = grad.shape
    padded = np.pad(x, [(0, 0), (edge, edge + stride), (edge, edge + stride), (0, 0)])
    out = np.zeros_like(grad)
    x_grad, kernel_grad = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in itertools.product(range(side), repeat=2):
        met = np.s_[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        out += padded[met] @ kernel[i, j]
        x_grad[met] += grad @ kernel[i, j].T
        kernel_grad[i, j] = np.einsum("nhwc,nhwo->co", padded[met], grad)
    h, w = x.shape[1:3]
    return out, x_grad[:, edge : edge + h, edge : edge + w], kernel_grad


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (3, 3), (7, 4), (7, 2)])
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (1, 3), (13, 7)])
def test_any_map(size, side, stride):
    rng = np.random.default_rng(0)
    h, w = size
    x, kernel = rng.normal(size=(2, h, w, 5)), rng.normal(size=(side, side, 5, 3))
    grad = rng.normal(size=(2, -(-h // stride), -(-w // stride), 3))

    @jax.jit
    def ours(x, kernel, grad):
        out, vjp = jax.vjp(lambda x, kernel: strided_conv(x, kernel, stride), x, kernel)
        return out, *vjp(grad)

    found = ours(*(jnp.float32(a) for a in (x, kernel, grad)))
    for a, b in zip(found, slow(x, kernel, grad, stride), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


def test_gradients_are_products():
    """XLA's would be two more convolutions, over a map full of zeros and by one."""
    layer = Conv(8, 3, 2)
    x = jnp.ones((1, 8, 8, 4))
    params = layer.init(jax.random.key(0), x)

    def loss(params, x):
        return jnp.sum(layer.apply(params, x) ** 2)

    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().as_text()
    assert program.count(" convolution(") == 1


def test_values_beyond_the_range_are_kept():
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 1]).reshape(4, 1, 1, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    # The taps beside the pixel meet padding only, and zero times zero is zero.
    np.testing.assert_array_equal(jax.jit(lambda x: strided_conv(x, kernel, 2))(x), x)


def test_no_library_of_reductions_convolves():
    """With a LayerNorm behind it the convolution stays one of the program's own steps."""
    options = compiler_options("infer")
    if not options:
        pytest.skip("XLA does not know the option")

    def forward(x, kernel):
        return layer_norm(strided_conv(x, kernel, 2), jnp.ones(8), jnp.zeros(8), 1e-5)

    arguments = jnp.ones((1, 16, 16, 4)), jnp.ones((3, 3, 4, 8))
    program = jax.jit(forward).lower(*arguments).compile(compiler_options=options).as_text()
    assert " convolution(" in program.split("ENTRY")[1]


def test_gradients_agree_on_all_platforms():
    rng = np.random.default_rng(0)
    shapes = (2, 7, 8, 5), (3, 3, 5, 4), (2, 4, 4, 4)
    arguments = [jnp.float32(rng.normal(size=shape)) for shape in shapes]
    cpu, other = (_gradients(*arguments, stride=2, platform=name) for name in PLATFORMS)
    for a, b in zip(cpu, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (2, 1)])
def test_other_convolutions_with_a_stride_are_as_they_were(kernel, dilation):
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    layer = Conv(4, kernel, 2, dilation, use_bias=False)
    params = layer.init(jax.random.key(1), x)

    def plain(params, x):
        edge = dilation * (kernel // 2)
        return jax.lax.conv_general_dilated(
            x,
            params["params"]["kernel"],
            (2, 2),
            [(edge, edge)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected, plain_vjp = jax.vjp(plain, params, x)
    found, vjp = jax.vjp(layer.apply, params, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(vjp(found)), jax.tree.leaves(plain_vjp(found)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_bfloat16():
    x, kernel = jnp.ones((1, 6, 6, 4), jnp.bfloat16), jnp.ones((3, 3, 4, 2), jnp.bfloat16)
    out, vjp = jax.vjp(lambda *a: strided_conv(*a, 2), x, kernel)
    assert out.dtype == jnp.bfloat16 and [g.dtype for g in vjp(out)] == [jnp.bfloat16] * 2
