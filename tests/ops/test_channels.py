"""Numbers of each channel: gradients in every precision against sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.layers.conv import Conv, DepthwiseConv, Linear, PatchConv
from attnseg.layers.conv_modulation import Conv2FormerBlock
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.layers.msca import MSCANBlock
from attnseg.layers.nonlocal_attention import ChannelAttention, PositionAttention
from attnseg.ops.channels import add_bias, scale_channels
from attnseg.ops.dilated_depthwise import dilated_depthwise_conv
from attnseg.ops.platforms import plain_convolutions

SHAPE = (2, 96, 96, 16)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def arrays(dtype):
    x, grad = np.random.default_rng(0).normal(size=(2, *SHAPE)) + 0.3
    return dtype(x), dtype(grad), jnp.linspace(0.5, 2, SHAPE[-1])


def float64(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_products_with_gradients(dtype):
    x, grad, number = arrays(dtype)
    for function, value, of_x, of_number in [
        (add_bias, x + number.astype(dtype), grad, float64(grad).sum((0, 1, 2))),
        (
            scale_channels,
            x * number.astype(dtype),
            grad * number.astype(dtype),
            (float64(grad) * float64(x)).sum((0, 1, 2)),
        ),
    ]:
        out, vjp = jax.vjp(function, x, number)
        got_x, got_number = jax.jit(vjp)(grad)
        np.testing.assert_array_equal(out, value)
        np.testing.assert_array_equal(got_x, of_x)
        assert (out.dtype, got_x.dtype, got_number.dtype) == (dtype, dtype, jnp.float32)
        np.testing.assert_allclose(got_number, of_number, rtol=1e-5)
        with plain_convolutions():
            np.testing.assert_array_equal(function(x, number), value)


@pytest.mark.parametrize("module", [Linear(16), Conv(16, 3), DepthwiseConv(), PatchConv(16, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_add_up_the_gradient_of_their_bias_in_float32(module, dtype):
    x, _, _ = arrays(dtype)
    params = module.init(jax.random.key(0), x)["params"]
    layer = module.clone(dtype=dtype)
    out, vjp = jax.vjp(lambda params: layer.apply({"params": params}, x), params)
    grad = dtype(np.random.default_rng(1).normal(size=out.shape) + 0.3)
    got = jax.jit(vjp)(grad)[0]["bias"]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, float64(grad).sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    "block, names",
    [
        (Conv2FormerBlock(3, 2, layer_scale=0.1), ("scale1", "scale2")),
        (MSCANBlock(2), ("layer_scale1", "layer_scale2")),
    ],
)
def test_factors_of_layers_have_gradients_near_those_of_float32(block, names):
    x, grad, _ = arrays(jnp.float32)
    variables = block.init(jax.random.key(0), x[:, :8, :8], False)

    def gradients(dtype):
        module = block.clone(dtype=dtype)

        def loss(params):
            out = module.apply({**variables, "params": params}, x.astype(dtype), False)
            return jnp.sum(out.astype(jnp.float32) * grad)

        return jax.jit(jax.grad(loss))(variables["params"])

    exact, low = gradients(jnp.float32), gradients(jnp.bfloat16)
    for name in names:
        scale = np.abs(exact[name]).max()
        np.testing.assert_allclose(low[name], exact[name], atol=0.02 * scale)


def test_numbers_of_one_channel_of_all_and_of_each_pixel():
    x, grad, _ = arrays(jnp.bfloat16)
    gamma = jnp.float32(0.7)
    got = jax.vjp(scale_channels, x, gamma)[1](grad)[1]
    np.testing.assert_allclose(got, (float64(grad) * float64(x)).sum(), rtol=1e-5)
    table = jnp.zeros(SHAPE[1:])
    got = jax.vjp(add_bias, x, table)[1](grad)[1]
    np.testing.assert_allclose(got, float64(grad).sum(0), atol=1e-6)


@pytest.mark.parametrize(
    "module", [CrissCrossAttention(4), PositionAttention(4), ChannelAttention()]
)
def test_gates_of_attention_have_gradients_near_those_of_float32(module):
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 16, 16, 32)))
    params = module.init(jax.random.key(0), x).get("params")

    def gradient(dtype):
        def loss(params):
            out = module.apply({"params": params}, x.astype(dtype)).astype(jnp.float32)
            return jnp.sum(out * x)

        return jax.jit(jax.grad(loss))(params)["gamma"]

    np.testing.assert_allclose(gradient(jnp.bfloat16), gradient(jnp.float32), rtol=0.03)


def test_dilated_depthwise_kernels_have_exact_sums_for_gradients():
    x, grad, _ = arrays(jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, SHAPE[-1]), jnp.bfloat16)
    got = jax.vjp(lambda k: dilated_depthwise_conv(x, k, 2), kernel)[1](grad)[0]
    middle = (float64(grad) * float64(x)).sum((0, 1, 2))
    np.testing.assert_allclose(float64(got[1, 1, 0]), middle, rtol=4e-3)
