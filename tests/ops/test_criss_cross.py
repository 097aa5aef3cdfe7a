"""Criss-cross attention against a slow, obvious version in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops import criss_cross
from attnseg.ops.criss_cross import criss_cross_attention


def slow(query, key, value):
    """Every pixel looks at the list of pixels that share its row or column, each once."""
    n, h, w, _ = query.shape
    out = np.zeros_like(value)
    for b in range(n):
        for i in range(h):
            for j in range(w):
                path = [(g, v) for g in range(h) for v in range(w) if g == i or v == j]
                assert len(path) == h + w - 1
                energy = np.array([query[b, i, j] @ key[b, g, v] for g, v in path])
                weights = np.exp(energy - energy.max())
                weights /= weights.sum()
                out[b, i, j] = sum(
                    x * value[b, g, v] for x, (g, v) in zip(weights, path, strict=True)
                )
    return out


def arrays(h, w, d=3, c=5, scale=1.0):
    rng = np.random.default_rng(0)
    query, key = scale * rng.normal(size=(2, 2, h, w, d))
    return query, key, rng.normal(size=(2, h, w, c))


@pytest.fixture(params=[False, True], ids=["whole", "chunks"])
def chunks(request, monkeypatch):
    """All lines at once, and one or a few at a time."""
    if request.param:
        monkeypatch.setattr(criss_cross, "_ENERGIES", {"cpu": 50, "default": 50})


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize(("h", "w"), [(5, 7), (6, 4), (1, 5), (4, 1), (1, 1)])
def test_it_equals_its_definition(h, w):
    inputs = arrays(h, w)
    out = jax.jit(criss_cross_attention)(*(jnp.float32(x) for x in inputs))
    np.testing.assert_allclose(out, slow(*inputs), atol=2e-6)


def test_large_energies_and_low_precision():
    # exp overflows float32 above 88: the maximum is taken off first.
    inputs = arrays(5, 6, scale=20.0)
    out = jax.jit(criss_cross_attention)(*(jnp.float32(x) for x in inputs))
    np.testing.assert_allclose(out, slow(*inputs), atol=1e-4)
    inputs = arrays(5, 6)
    out = jax.jit(criss_cross_attention)(*(jnp.bfloat16(x) for x in inputs))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(out), slow(*inputs), atol=0.05)


def slow_gradients(query, key, value, grad):
    """The gradients written out over the whole l x l map, with the weights off the path zero."""
    n, h, w, _ = query.shape
    flat = lambda x: x.reshape(n, h * w, -1)  # noqa: E731
    q, k, v, g = (flat(x) for x in (query, key, value, grad))
    row, column = np.divmod(np.arange(h * w), w)
    path = (row[:, None] == row) | (column[:, None] == column)
    energies = np.where(path, q @ k.transpose(0, 2, 1), -np.inf)
    weights = np.exp(energies - energies.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    grad_weights = g @ v.transpose(0, 2, 1)
    grad_energies = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdims=True))
    pairs = (
        grad_energies @ k,
        grad_energies.transpose(0, 2, 1) @ q,
        weights.transpose(0, 2, 1) @ g,
    )
    return [x.reshape(n, h, w, -1) for x in pairs]


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize(("h", "w"), [(4, 5), (1, 3), (1, 1)])
def test_gradients_in_float64(h, w):
    inputs = arrays(h, w)
    grad = np.random.default_rng(1).normal(size=inputs[2].shape)
    with jax.enable_x64(True):
        out, vjp = jax.vjp(criss_cross_attention, *(jnp.asarray(x) for x in inputs))
        np.testing.assert_allclose(out, slow(*inputs), rtol=1e-10, atol=1e-12)
        for got, expected in zip(
            vjp(jnp.asarray(grad)), slow_gradients(*inputs, grad), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "accuracy"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.2)])
def test_gradients_in_the_dtype(dtype, accuracy):
    inputs = arrays(4, 5)
    grad = np.random.default_rng(1).normal(size=inputs[2].shape)
    vjp = jax.vjp(criss_cross_attention, *(dtype(x) for x in inputs))[1]
    for got, expected in zip(vjp(dtype(grad)), slow_gradients(*inputs, grad), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.float64(got), expected, atol=accuracy)


def test_no_map_of_all_pairs_is_formed():
    h, w = 24, 40
    shapes = [jax.ShapeDtypeStruct((1, h, w, c), jnp.float32) for c in (2, 2, 4)]
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: criss_cross_attention(*a).sum(), (0, 1, 2)))(*shapes)
    largest = max(np.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars)
    assert largest <= h * w * max(h, w)


def test_memory_grows_as_pixels_times_height_and_width():
    """By the compiler's account of forward and backward pass, on five sizes."""
    per_path = []
    for side in (12, 24, 32, 48, 64):
        shapes = [jax.ShapeDtypeStruct((1, side, side, c), jnp.float32) for c in (2, 2, 4)]
        run = jax.jit(jax.grad(lambda *a: jnp.sum(criss_cross_attention(*a) ** 2), (0, 1, 2)))
        used = run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        per_path.append(used / (side**2 * 2 * side))
    # The map of all pairs would raise it 28 times from the first to the last.
    assert max(per_path) < 2 * per_path[0]
