"""Normalisation against its definition."""

import jax
import jax.numpy as jnp
import numpy as np

from attnseg.layers.drop import ChannelDropout, DropPath
from attnseg.layers.norm import BatchNorm, LayerNorm


def test_layer_norm_and_the_epsilon_that_weights_bring():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)) * 1e-3
    norm = LayerNorm(epsilon=1e-5)
    variables = norm.init(jax.random.key(0), x)

    def expected(epsilon):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)

    np.testing.assert_allclose(norm.apply(variables, x), expected(1e-5), atol=1e-5)
    brought = {**variables, "constants": {"epsilon": jnp.float32(1e-6)}}
    np.testing.assert_allclose(norm.apply(brought, x), expected(1e-6), atol=1e-5)


def test_batch_norm_statistics_and_shift():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(4, 5, 6, 3))
    shift = np.array([1.0, -2.0, 0.5])
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.float32(x), train=False)
    out, updates = norm.apply(
        variables, jnp.float32(x), train=True, shift=jnp.float32(shift), mutable=["batch_stats"]
    )
    flat = x.reshape(-1, 3)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * (flat.mean(0) + shift), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    # Evaluating with a shift is evaluating the shifted input.
    moved = {**variables, "batch_stats": stats}
    left_out = norm.apply(moved, jnp.float32(x), train=False, shift=jnp.float32(shift))
    added = norm.apply(moved, jnp.float32(x + shift), train=False)
    np.testing.assert_allclose(left_out, added, atol=1e-5)


def test_drops_keep_the_mean_and_their_groups():
    x = jnp.ones((400, 2, 2, 5))
    rngs = {"dropout": jax.random.key(0)}
    path = np.asarray(DropPath(0.25).apply({}, x, train=True, rngs=rngs))
    assert set(np.unique(path).round(4)) == {0.0, np.float32(4 / 3).round(4)}
    assert all(len(np.unique(example)) == 1 for example in path)
    assert abs(path.mean() - 1.0) < 0.1
    channels = np.asarray(ChannelDropout(0.5).apply({}, x, train=True, rngs=rngs))
    per_channel = channels.reshape(400, 4, 5)
    assert np.all(per_channel == per_channel[:, :1]) and 0.9 < channels.mean() < 1.1
    assert np.array_equal(DropPath(0.25).apply({}, x, train=False), x)
