"""``x + gelu(depthwise(x) + bias)`` and its gradients against a slow version in float64."""

import math
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import slow_depthwise

from attnseg.core.mesh import batch_sharding, make_mesh, replicated
from attnseg.ops import residual_depthwise as module
from attnseg.ops.activation import gelu
from attnseg.ops.platforms import plain_convolutions
from attnseg.ops.residual_depthwise import residual_depthwise

SHAPES = [(2, 7, 5, 3), (1, 14, 14, 24), (3, 9, 11, 256), (2, 1, 1, 8), (1, 2, 33, 16)]
_cdf = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))


def arrays(shape, size=(3, 3)):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, *shape))
    return x, 0.5 * rng.normal(size=(*size, 1, shape[-1])), rng.normal(size=shape[-1:]), grad


def slow(x, kernel, bias, grad):
    """The sum, and the gradients of ``sum(it * grad)``."""
    moved = slow_depthwise.slow(x, kernel) + bias
    inner = grad * (_cdf(moved) + moved * np.exp(-(moved**2) / 2) / math.sqrt(2 * math.pi))
    of_x, of_kernel = slow_depthwise.slow_gradients(x, kernel, inner)
    return x + moved * _cdf(moved), (grad + of_x, of_kernel, inner.sum((0, 1, 2)))


def both(x, kernel, bias, grad):
    out, vjp = jax.vjp(residual_depthwise, x, kernel, bias)
    return out, vjp(grad)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *((shape, (3, 3)) for shape in SHAPES),
        ((2, 9, 6, 8), (7, 1)),
        ((2, 9, 6, 8), (11, 1)),
        ((2, 5, 11, 8), (1, 7)),
    ],
)
def test_the_sum_and_its_gradients(shape, size):
    args = arrays(shape, size)
    out, grads = jax.jit(both)(*map(jnp.float32, args))
    expected, wanted = slow(*args)
    np.testing.assert_allclose(out, expected, atol=5e-6)
    for got, value in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got, value, atol=2e-4)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        args = arrays((2, 7, 5, 3))
        out, grads = both(*map(jnp.asarray, args))
        expected, wanted = slow(*args)
        for got, value in zip((out, *grads), (expected, *wanted), strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-10, atol=1e-11)


def test_half_precision():
    args = [jnp.bfloat16(a) for a in arrays((2, 9, 6, 16))]
    out, grads = both(*args)
    expected, wanted = slow(*(np.float64(a) for a in args))
    for got, value in zip((out, *grads), (expected, *wanted), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float64(got), value, rtol=0.03, atol=0.1)


def test_other_platforms_and_formats_compute_the_same():
    args = [jnp.float32(a) for a in arrays((2, 6, 7, 12))]
    expected, wanted = both(*args)
    out, vjp = jax.vjp(module._composed, *args[:3])
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for got, value in zip(vjp(args[3]), wanted, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-4)
    with plain_convolutions():
        np.testing.assert_allclose(residual_depthwise(*args[:3]), expected, atol=1e-5)


def maps_written(function, *args):
    """Sides, of two digits, of the maps [1 h w 64] that the function writes outside of loops."""
    text = jax.jit(function).lower(*args).compile().as_text()
    entry = text[text.index("ENTRY") :]
    return sorted(re.findall(r"= f32\[1,(\d\d,\d\d),64\]\S* (?!parameter)", entry))


def test_each_map_is_written_once():
    """The map and the gradient behind GELU with zeros around them, and not also as they are."""
    x, kernel, bias, grad = (jnp.float32(a) for a in arrays((1, 12, 12, 64)))
    forward = maps_written(lambda x, *args: residual_depthwise(gelu(x), *args), x, kernel, bias)
    assert forward == ["12,12", "15,14"]
    gradients = maps_written(lambda *args: both(*args)[1], x, kernel, bias, grad)
    assert gradients == ["12,12", "15,14", "15,14"]


def test_half_precision_adds_up_the_bias_in_float32():
    args = [jnp.bfloat16(a) for a in arrays((2, 56, 56, 8))]
    got = jax.jit(both)(*args)[1][2]
    wanted = slow(*(np.float64(a) for a in args))[1][2]
    np.testing.assert_allclose(np.float64(got), wanted, rtol=0.01, atol=0.5)


@pytest.mark.parametrize("sizes", ["b, 6, 7, 12", "b, h, w, 12"])
def test_programs_for_any_batch_and_any_size(sizes):
    x, kernel, bias, _ = (jnp.float32(a) for a in arrays((2, 6, 7, 12)))
    shape = jax.export.symbolic_shape(sizes)
    like = (jax.ShapeDtypeStruct(shape, jnp.float32), kernel, bias)
    program = jax.export.export(jax.jit(residual_depthwise), platforms=["cpu", "cuda"])(*like)
    expected = residual_depthwise(x, kernel, bias)
    np.testing.assert_allclose(program.call(x, kernel, bias), expected, atol=1e-5)
    own = "optimization_barrier" in program.mlir_module()
    assert own == ("h" not in sizes)


def test_devices_that_share_the_examples_meet_once_for_each_parameter():
    args = arrays((8, 6, 5, 256))
    mesh = make_mesh()
    places = (batch_sharding(mesh), replicated(mesh), replicated(mesh), batch_sharding(mesh))
    given = [jax.device_put(jnp.float32(a), p) for a, p in zip(args, places, strict=True)]
    program = jax.jit(both).lower(*given).compile()
    exchange = re.compile(r" (all-\w+|reduce-scatter|collective-\w+)\(")
    met = [line for line in program.as_text().splitlines() if exchange.search(line)]
    assert 1 <= len(met) <= 2 and all("all-reduce" in line for line in met), met
    out, grads = program(*given)
    assert out.sharding.is_equivalent_to(batch_sharding(mesh), 4)
    for got, value in zip(grads, slow(*args)[1], strict=True):
        np.testing.assert_allclose(got, value, atol=2e-4)
