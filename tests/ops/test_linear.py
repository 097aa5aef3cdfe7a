"""The linear map and its gradients against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.layers.conv import Conv, Linear
from attnseg.ops.linear import linear_map

SHAPES = [((2, 5, 7, 12), 3), ((2, 5, 7, 3), 12), ((6, 9), 4), ((4, 3, 8), 8)]


def arrays(shape, width):
    rng = np.random.default_rng(0)
    return (rng.normal(size=s) for s in (shape, (shape[-1], width), (*shape[:-1], width)))


@pytest.mark.parametrize(("shape", "width"), SHAPES)
def test_the_map_and_its_gradients(shape, width):
    x, kernel, grad = arrays(shape, width)

    @jax.jit
    def both(x, kernel, grad):
        out, vjp = jax.vjp(linear_map, x, kernel)
        return out, vjp(grad)

    out, (x_grad, kernel_grad) = both(*(jnp.float32(a) for a in (x, kernel, grad)))
    np.testing.assert_allclose(out, x @ kernel, atol=1e-5)
    np.testing.assert_allclose(x_grad, grad @ kernel.T, atol=1e-5)
    pixels = x.reshape(-1, shape[-1]), grad.reshape(-1, width)
    np.testing.assert_allclose(kernel_grad, pixels[0].T @ pixels[1], atol=1e-5)


@pytest.mark.parametrize("width", [2, 9])
def test_the_layer_maps_in_its_dtype(width):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
    layer = Linear(width, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(1), x)["params"]
    assert params["kernel"].dtype == jnp.float32 and params["kernel"].shape == (5, width)
    out, vjp = jax.vjp(lambda p: layer.apply({"params": p}, x), params)
    assert out.dtype == jnp.bfloat16
    assert vjp(jnp.ones_like(out))[0]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_of_one_pixel_is_that_map(stride):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 6))
    layer = Conv(4, 1, stride)
    params = layer.init(jax.random.key(1), x)["params"]
    assert params["kernel"].shape == (1, 1, 6, 4)

    def plain(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        kernel = params["kernel"]
        out = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=dims
        )
        return jnp.sum((out + params["bias"]) ** 2)

    def ours(params, x):
        return jnp.sum(layer.apply({"params": params}, x) ** 2)

    expected = jax.value_and_grad(plain, (0, 1))(params, x)
    got = jax.value_and_grad(ours, (0, 1))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize(("rows", "turns"), [(4, False), (400, True)])
def test_the_gradient_is_turned_round_where_that_moves_less(rows, turns):
    x, kernel, grad = jnp.ones((rows, 48)), jnp.ones((48, 32)), jnp.ones((rows, 32))

    def kernel_gradient(x, kernel, grad):
        return jax.vjp(linear_map, x, kernel)[1](grad)[1]

    program = jax.jit(kernel_gradient).lower(x, kernel, grad).compile().as_text()
    assert ("f32[32,48]" in program) == turns


def test_the_gradient_of_any_number_of_rows():
    (rows,) = jax.export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, 5), (5, 3), (rows, 3))]
    program = jax.export.export(jax.jit(lambda x, k, g: jax.vjp(linear_map, x, k)[1](g)[1]))(
        *shapes
    )
    x, grad = np.ones((4, 5), np.float32), np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(program.call(x, np.ones((5, 3), np.float32), grad), 4)
