"""Activations: values, gradients, and what XLA makes of a residual network with them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.activation import gelu, relu
from attnseg.ops.platforms import plain_convolutions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu(dtype):
    x = jnp.array([-jnp.inf, -2, -0.0, 0, 1e-20, 3, jnp.inf, jnp.nan], dtype)
    expected = np.array([0, 0, 0, 0, 1e-20, 3, np.inf, np.nan])
    for function in (relu, jax.jit(relu)):
        assert function(x).dtype == dtype
        np.testing.assert_allclose(np.asarray(function(x), np.float64), expected, rtol=1e-2)
        gradient = jax.grad(lambda x, f=function: f(x).sum())(x)
        np.testing.assert_array_equal(gradient[:7], [0, 0, 0, 0, 1, 1, 1])
    with plain_convolutions():
        assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: relu(x))(x))


def test_sums_of_earlier_blocks_are_not_computed_again():
    if jax.default_backend() != "cpu":
        pytest.skip("other backends decide otherwise")

    def network(x, kernels):
        for kernel in kernels:
            x = relu(x + 2.0 * (x @ kernel))
        return x

    arguments = jnp.ones((64, 64)), [jnp.ones((64, 64))] * 5
    text = jax.jit(network).lower(*arguments).compile().as_text()
    entry = text[text.index("ENTRY") :].splitlines()
    loops = [line.split(" fusion(")[1].split(")")[0] for line in entry if "kind=kLoop" in line]
    assert len(loops) >= 5
    assert max(line.count("%") for line in loops) <= 2, loops


@pytest.mark.parametrize(("end", "numbers", "atol"), [(6, 241, 5e-7), (50, 2001, 2e-6)])
def test_gelu_is_the_exact_one(end, numbers, atol):
    x = np.linspace(-end, end, numbers)
    exact = [0.5 * v * (1 + math.erf(v / 2**0.5)) for v in x]
    np.testing.assert_allclose(gelu(jnp.float32(x)), exact, atol=atol)


def _slope_of_gelu(x):
    density = np.exp(-x * x / 2) / (2 * math.pi) ** 0.5
    return 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5)) + x * density


def test_the_gradient_of_gelu():
    x = np.linspace(-50, 50, 2001)
    exact = _slope_of_gelu(x)
    _, vjp = jax.vjp(gelu, jnp.float32(x))
    np.testing.assert_allclose(vjp(jnp.full(2001, 3.0))[0], 3 * np.array(exact), atol=1e-6)
    kept = [leaf for leaf in jax.tree_util.tree_leaves(vjp) if leaf.size == x.size]
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("dtype", "atol"),
    [("float64", 1e-12), ("float32", 4e-7), ("float16", 3e-3), ("bfloat16", 2e-2)],
)
def test_the_gradient_of_gelu_where_it_bends(dtype, atol):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-8, 8, 40001).astype(dtype)  # every part of the fitted quotient
        slope = jax.jit(jax.grad(lambda x: gelu(x).sum()))(x)
    assert slope.dtype == dtype
    exact = _slope_of_gelu(np.asarray(x, np.float64))
    np.testing.assert_allclose(np.asarray(slope, np.float64), exact, atol=atol)


def test_the_gradient_of_gelu_at_its_ends():
    ends = jax.grad(lambda x: gelu(x).sum())(jnp.array([-jnp.inf, jnp.inf, jnp.nan], jnp.float32))
    np.testing.assert_allclose(ends, [0, 1, np.nan], atol=4e-7)
