"""Batch normalisation in training: values, gradients and what is kept for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.batch_norm import batch_norm

EPSILON = 1e-3


def plain(x, scale, bias):
    """By definition, in the precision of its arguments."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = ((x - mean) ** 2).mean(axes)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias, mean, variance


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 4, 3)])
def test_values_and_gradients(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) + np.array([0, 3, -50])
    scale, bias, seed = rng.normal(size=3), rng.normal(size=3), rng.normal(size=shape)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a, jnp.float64) for a in (x, scale, bias)]
        expected = plain(*arguments)
        grads = jax.grad(lambda *a: (plain(*a)[0] * seed).sum(), (0, 1, 2))(*arguments)
        expected, grads = jax.device_get((expected, grads))
    arguments = [jnp.float32(a) for a in (x, scale, bias)]
    found = jax.jit(lambda *a: batch_norm(*a, EPSILON, jnp.float32))(*arguments)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)
    run = jax.grad(lambda *a: (batch_norm(*a, EPSILON, jnp.float32)[0] * seed).sum(), (0, 1, 2))
    for got, wanted in zip(jax.jit(run)(*arguments), grads, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


def test_bfloat16_keeps_the_input_only():
    x, vector = jnp.ones((4, 8, 8, 16), jnp.bfloat16), jnp.ones(16)
    (y, *statistics), vjp = jax.vjp(lambda *a: batch_norm(*a, EPSILON, x.dtype), x, vector, vector)
    assert y.dtype == jnp.bfloat16 and all(s.dtype == jnp.float32 for s in statistics)
    maps = [leaf for leaf in jax.tree_util.tree_leaves(vjp) if leaf.size >= x.size]
    assert [(leaf.shape, leaf.dtype) for leaf in maps] == [(x.shape, x.dtype)]
    grads = vjp((y, jnp.zeros(16), jnp.zeros(16)))
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_no_centred_map_is_kept():
    """XLA centres the map in each pass; one centred map for all of them would be a fifth."""

    def loss(x, kernels):
        y = jnp.tanh(batch_norm(x @ kernels[0], jnp.ones(32), jnp.zeros(32), EPSILON, x.dtype)[0])
        return jnp.tanh(y @ kernels[1]).sum()

    x, kernels = jnp.ones((2, 32, 32, 16)), (jnp.ones((16, 32)), jnp.ones((32, 16)))
    program = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernels).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4.5 * 2 * x.nbytes
