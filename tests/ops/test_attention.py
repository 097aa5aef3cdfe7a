"""Softmax attention and its gradient against slow versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.compiler import compiler_options
from attnseg.ops import attention
from attnseg.ops.attention import dot_product_attention, softmax_attention


def slow(query, key, value):
    """[n m l d], [n m s d] twice -> output and weights."""
    logits = np.einsum("nmld,nmsd->nmls", query, key)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("nmls,nmsd->nmld", weights, value), weights


def slow_gradients(query, key, value, grad):
    _, weights = slow(query, key, value)
    grad_weights = np.einsum("nmld,nmsd->nmls", grad, value)
    # The Jacobian of a softmax, diag(w) - w w^T, written out.
    jacobian = np.einsum("nmls,st->nmlst", weights, np.eye(weights.shape[-1]))
    jacobian -= np.einsum("nmls,nmlt->nmlst", weights, weights)
    grad_logits = np.einsum("nmlst,nmlt->nmls", jacobian, grad_weights)
    return (
        np.einsum("nmls,nmsd->nmld", grad_logits, key),
        np.einsum("nmls,nmld->nmsd", grad_logits, query),
        np.einsum("nmls,nmld->nmsd", weights, grad),
    )


def arrays(length=12, keys=5, scale=1.0):
    rng = np.random.default_rng(0)
    query, grad = rng.normal(size=(2, 2, 3, length, 4))
    key, value = rng.normal(size=(2, 2, 3, keys, 4))
    return scale * query, scale * key, value, grad


def both(query, key, value, grad):
    out, vjp = jax.vjp(softmax_attention, query, key, value)
    return out, vjp(grad)


@pytest.fixture(params=["whole", "streamed", "blocks"])
def blocks(request, monkeypatch):
    """The map formed at once, and in blocks of few queries, with the softmax streamed and not."""
    if request.param != "whole":
        small = dict.fromkeys(("cpu", "default"), attention._Block(1, 1, 4))
        monkeypatch.setattr(attention, "_FORWARD", small)
        monkeypatch.setattr(attention, "_BACKWARD", small)
        monkeypatch.setattr(attention, "_STREAMED_LOGITS", 6 * 5 * 4)
    if request.param == "blocks":
        monkeypatch.setattr(attention, "_STREAMED_MAPS", 0)


@pytest.mark.parametrize("scale", [1.0, 12.0])  # exp alone overflows float32 at the second
def test_it_equals_its_definition(blocks, scale):
    with jax.enable_x64(True):
        inputs = arrays(scale=scale)
        out, grads = both(*(jnp.asarray(a) for a in inputs))
        np.testing.assert_allclose(out, slow(*inputs[:3])[0], rtol=1e-9, atol=1e-12)
        for got, expected in zip(grads, slow_gradients(*inputs), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-11)


def test_float32_and_bfloat16(blocks):
    inputs = arrays()
    for dtype, accuracy in ((jnp.float32, 5e-6), (jnp.bfloat16, 0.06)):
        out, grads = jax.jit(both)(*(dtype(a) for a in inputs))
        assert out.dtype == dtype and all(g.dtype == dtype for g in grads)
        np.testing.assert_allclose(np.float64(out), slow(*inputs[:3])[0], atol=accuracy)
        for got, expected in zip(grads, slow_gradients(*inputs), strict=True):
            np.testing.assert_allclose(np.float64(got), expected, atol=3 * accuracy)


def test_a_single_key_moves_nothing(blocks):
    inputs = arrays(keys=1)
    out, (grad_query, grad_key, grad_value) = both(*(jnp.float32(a) for a in inputs))
    np.testing.assert_allclose(out, np.broadcast_to(inputs[2], out.shape), atol=1e-6)
    assert not np.any(grad_query) and not np.any(grad_key)
    np.testing.assert_allclose(grad_value, inputs[3].sum(2, keepdims=True), atol=1e-5)


def test_no_map_of_all_pairs_lives_on_to_the_backward_pass():
    shape = jax.ShapeDtypeStruct((1, 1, 4096, 4), jnp.float32)
    loss = lambda *a: jnp.sum(softmax_attention(*a) ** 2)  # noqa: E731
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    pairs = 4 * 4096 * 4096
    assert compiled.memory_analysis().temp_size_in_bytes < pairs / 4


@pytest.mark.skipif(not compiler_options("infer"), reason="an XLA that makes no such operation")
def test_with_few_keys_a_map_never_exists():
    query = jax.ShapeDtypeStruct((2, 1, 4096, 32), jnp.float32)
    keys = jax.ShapeDtypeStruct((2, 1, 256, 32), jnp.float32)
    jitted = jax.jit(softmax_attention, compiler_options=compiler_options("infer"))
    compiled = jitted.lower(query, keys, keys).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2 * 4096 * 256 / 4


def test_over_a_grid_with_heads():
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
