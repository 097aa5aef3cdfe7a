"""Layer normalisation: values, gradients and what is kept for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.layers.norm import LayerNorm
from attnseg.ops.layer_norm import _weighted_mean, layer_norm
from attnseg.ops.platforms import PLATFORMS

EPSILON = 1e-3


def plain(x, scale, bias):
    """By definition, in the precision of its arguments."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias


@pytest.mark.parametrize("shape", [(7,), (6, 7), (2, 5, 4, 32)])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_values_and_gradients(shape, offset):
    rng = np.random.default_rng(0)
    c = shape[-1]
    x = np.float32(rng.normal(size=shape) + offset)  # what both get
    scale, bias, seed = rng.normal(size=c), rng.normal(size=c), rng.normal(size=shape)
    with jax.enable_x64(True):
        expected, vjp = jax.vjp(plain, *(jnp.asarray(a, jnp.float64) for a in (x, scale, bias)))
        grads = jax.device_get(vjp(jnp.asarray(seed)))
        expected = np.asarray(expected)

    @jax.jit
    def both(x, scale, bias, seed):
        y, vjp = jax.vjp(lambda *a: layer_norm(*a, EPSILON), x, scale, bias)
        return y, vjp(seed)

    found, found_grads = both(*(jnp.float32(a) for a in (x, scale, bias, seed)))
    tolerance = 5e-5 if offset else 2e-6  # the mean itself is known to 40 * 2**-23
    np.testing.assert_allclose(found, expected, atol=tolerance)
    for got, wanted in zip(found_grads, grads, strict=True):
        np.testing.assert_allclose(got, wanted, atol=tolerance * max(1, np.abs(wanted).max()))


def test_bfloat16_keeps_the_input_and_two_numbers_a_pixel():
    x, vector = jnp.ones((4, 8, 8, 16), jnp.bfloat16), jnp.ones(16)
    y, vjp = jax.vjp(lambda *a: layer_norm(*a, EPSILON), x, vector, vector)
    assert y.dtype == jnp.float32
    kept = [leaf for leaf in jax.tree_util.tree_leaves(vjp) if leaf.size >= x.size // 16]
    shapes = sorted((leaf.shape, str(leaf.dtype)) for leaf in kept)
    assert shapes == [((4, 8, 8, 1), "float32")] * 2 + [(x.shape, "bfloat16")]
    assert [g.dtype for g in vjp(y)] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_a_loaded_epsilon_is_used_and_has_no_gradient():
    x = jax.random.normal(jax.random.key(0), (3, 8))
    params = LayerNorm().init(jax.random.key(0), x)["params"]

    def out(epsilon):
        variables = {"params": params, "constants": {"epsilon": epsilon}}
        return LayerNorm().apply(variables, x)

    np.testing.assert_allclose(
        out(jnp.float32(0.5)), LayerNorm(epsilon=0.5).apply({"params": params}, x), atol=1e-6
    )
    assert float(jax.grad(lambda e: (out(e) ** 2).sum())(jnp.float32(0.5))) == 0


def test_means_agree_on_all_platforms():
    x, weights = jax.random.normal(jax.random.key(0), (5, 7)), jnp.arange(7.0)
    cpu, other = (_weighted_mean(x, weights, platform=name) for name in PLATFORMS)
    np.testing.assert_allclose(cpu, other, atol=1e-6)
