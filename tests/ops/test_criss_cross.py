"""Criss-cross attention against a slow, obvious version in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_gradient():
    """Directional derivatives of the obvious version by central differences."""
    inputs = arrays(4, 5)
    rng = np.random.default_rng(1)
    seed = rng.normal(size=inputs[2].shape)
    loss = lambda *a: jnp.sum(criss_cross_attention(*a) * jnp.float32(seed))  # noqa: E731
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*(jnp.float32(x) for x in inputs))
    for i, gradient in enumerate(grads):
        direction = rng.normal(size=inputs[i].shape)
        ahead, behind = list(inputs), list(inputs)
        ahead[i], behind[i] = (inputs[i] + s * direction for s in (1e-5, -1e-5))
        expected = np.sum((slow(*ahead) - slow(*behind)) * seed) / 2e-5
        np.testing.assert_allclose(np.sum(np.float64(gradient) * direction), expected, rtol=1e-4)


def test_no_map_of_all_pairs_is_formed():
    h, w = 24, 40
    shapes = [jax.ShapeDtypeStruct((1, h, w, c), jnp.float32) for c in (2, 2, 4)]
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: criss_cross_attention(*a).sum(), (0, 1, 2)))(*shapes)
    largest = max(np.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars)
    assert largest <= h * w * max(h, w)
