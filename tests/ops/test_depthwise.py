"""Depthwise convolution and its gradients against slow versions in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from slow_depthwise import slow, slow_gradients

from attnseg.core.mesh import batch_sharding, make_mesh, replicated
from attnseg.ops import depthwise
from attnseg.ops.depthwise import depthwise_conv
from attnseg.ops.direct_conv import direct_conv

# Every size of kernel the models have; small grids with many taps go by matrices, many channels by
# blocks of them.
SHAPES = [
    ((2, 9, 13, 6), (3, 3)),
    ((5, 8, 8, 4), (5, 5)),
    ((2, 34, 9, 3), (7, 7)),
    ((2, 18, 10, 2), (11, 11)),
    ((1, 47, 5, 2), (3, 3)),
    ((3, 13, 6, 2), (5, 5)),
    ((16, 8, 7, 3), (11, 11)),
    ((9, 4, 4, 2), (11, 11)),
    ((3, 7, 10, 4), (1, 7)),
    ((1, 6, 5, 3), (7, 1)),
    ((2, 5, 12, 3), (1, 11)),
    ((2, 12, 5, 3), (11, 1)),
    ((1, 6, 24, 2), (1, 21)),
    ((1, 33, 4, 2), (21, 1)),
    ((2, 10, 9, 2), (21, 21)),
    ((2, 9, 10, 128), (7, 7)),
    ((1, 12, 7, 64), (11, 11)),
    ((3, 1, 1, 8), (3, 3)),
    ((2, 33, 4, 16), (21, 1)),
    ((2, 11, 8, 48), (3, 3)),
    ((1, 5, 70, 24), (5, 1)),
    ((2, 8, 8, 384), (3, 3)),
    ((1, 9, 7, 256), (3, 3)),
    ((1, 3, 50, 144), (1, 7)),
]


def arrays(shape, size):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, *shape))
    return x, rng.normal(size=(*size, 1, shape[-1])), grad


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_the_convolution_and_its_gradients(shape, size):
    x, kernel, grad = arrays(shape, size)
    run = jax.jit(lambda x, kernel, grad: _both(x, kernel, grad))
    out, grads = run(*(jnp.float32(a) for a in (x, kernel, grad)))
    np.testing.assert_allclose(out, slow(x, kernel), atol=2e-5)
    for got, expected in zip(grads, slow_gradients(x, kernel, grad), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def _both(x, kernel, grad):
    out, vjp = jax.vjp(depthwise_conv, x, kernel)
    return out, vjp(grad)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 6, 5, 2), (3, 5)),
        ((16, 3, 4, 2), (7, 7)),
        ((1, 9, 4, 64), (7, 7)),
        ((1, 5, 6, 256), (3, 3)),
    ],
)
def test_float64_stays_float64(shape, size):
    with jax.enable_x64(True):
        x, kernel, grad = (jnp.asarray(a) for a in arrays(shape, size))
        out, grads = _both(x, kernel, grad)
        np.testing.assert_allclose(out, slow(np.asarray(x), np.asarray(kernel)), rtol=1e-12)
        expected = slow_gradients(*(np.asarray(a) for a in (x, kernel, grad)))
        for got, wanted in zip(grads, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((4, 8, 9, 6), (3, 3)), ((12, 4, 4, 3), (7, 7))])
def test_every_way_agrees(shape, size):
    """What other platforms and other sizes run, executed here."""
    x, kernel, grad = (jnp.float32(a) for a in arrays(shape, size))
    expected = direct_conv(x, kernel)
    for way in (depthwise._shift_and_add, depthwise._matrix_conv):
        np.testing.assert_allclose(way(x, kernel), expected, atol=1e-5)
    expected = depthwise._kernel_gradient_conv(x, grad, kernel)
    got = depthwise._kernel_gradient_cpu(x, grad, kernel)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_devices_that_share_the_examples_meet_once():
    """And not in the loop over blocks of channels."""
    mesh = make_mesh()
    x = jax.ShapeDtypeStruct((8, 12, 9, 256), jnp.float32, sharding=batch_sharding(mesh))
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 256), jnp.float32, sharding=replicated(mesh))
    gradient = jax.jit(lambda x, kernel, grad: _both(x, kernel, grad)[1][1])
    program = gradient.lower(x, kernel, x).compile().as_text()
    exchange = re.compile(r" (all-\w+|reduce-scatter|collective-\w+)\(")
    met = [line for line in program.splitlines() if exchange.search(line)]
    assert len(met) == 1 and "f32[3,3,256]" in met[0], met


def test_low_precision_sums_in_float32():
    x, kernel, _ = (jnp.bfloat16(a) for a in arrays((2, 40, 40, 256), (3, 3)))
    ones = jnp.ones_like(x)
    grad_kernel = jax.vjp(depthwise_conv, ones, kernel)[1](ones)[1]
    assert grad_kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(grad_kernel[1, 1, 0]), 3200, rtol=4e-3)


def test_the_map_is_padded_once():
    """XLA takes a tap from the smaller of two padded maps, and then has to write both."""
    x, kernel = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 1, 16))
    program = jax.jit(depthwise_conv).lower(x, kernel).compile().as_text()
    assert set(re.findall(r"f32\[1,(\d+),10,16\]", program)) == {"11"}
    program = jax.jit(_both).lower(x, kernel, x).compile().as_text()
    assert program.count(" pad(") == 2  # the map, for the sum and its gradient, and `grad`


def test_loops_over_blocks_of_channels_start_without_a_copy():
    """Each from its own kernel: of equal starts XLA would make one and copy it."""
    x, kernel = jnp.ones((1, 14, 14, 256)), jnp.ones((7, 7, 1, 256))

    def twice(x, first, second):
        return depthwise_conv(depthwise_conv(x, first), second)

    text = jax.jit(twice).lower(x, kernel, kernel).compile().as_text()
    assert "while(" in text
    assert not re.findall(r"= f32\[1,14,14,256\]\S* copy\(", text)


def test_blocks_of_channels_are_all_written_with_a_kernel_that_is_not_finite():
    x, kernel, _ = (jnp.float32(a) for a in arrays((1, 6, 7, 128), (7, 7)))
    kernel = kernel.at[0, 0, 0, 0].set(jnp.nan).at[2, 1, 0, 64].set(jnp.inf)
    out, expected = depthwise_conv(x, kernel), direct_conv(x, kernel)
    np.testing.assert_array_equal(jnp.isfinite(out), jnp.isfinite(expected))
    finite = jnp.isfinite(expected)
    np.testing.assert_allclose(out[finite], expected[finite], atol=2e-5)


@pytest.mark.parametrize(
    ("size", "w", "odd"),
    [
        ((11, 1), 64, True),
        ((21, 1), 64, True),
        ((21, 1), 63, True),
        ((7, 1), 64, False),
        ((1, 11), 64, False),
    ],
)
def test_rows_under_a_tall_column_do_not_share_places_of_the_cache(size, w, odd):
    x, kernel = jnp.ones((1, 64, w, 32)), jnp.ones((*size, 1, 32))
    for program in (depthwise.pad_for_gradient, depthwise._shift_and_add):
        text = str(jax.make_jaxpr(program)(x, kernel))
        width = int(re.search(r":f32\[1,\d+,(\d+),32\] = pad", text)[1])
        assert (width % 2 == 1) is odd


def test_a_kernel_divided_over_devices_is_gathered_for_its_taps_alone():
    """Once for each of two uses, and not for what the loops start with."""
    x, kernel, grad = (jnp.float32(a) for a in arrays((4, 6, 5, 256), (7, 7)))
    devices = jax.sharding.Mesh(jax.devices()[:2], "data")
    x, grad = jax.device_put((x, grad), NamedSharding(devices, PartitionSpec("data")))
    spec = PartitionSpec(None, None, None, "data")
    kernel = jax.device_put(kernel, NamedSharding(devices, spec))
    program = jax.jit(_both).lower(x, kernel, grad).compile().as_text()
    assert len(re.findall(r" all-gather\(", program)) == 2


@pytest.mark.parametrize("size", [(7, 7), (21, 1), (3, 3)])
def test_examples_stay_on_their_devices(size):
    x, kernel, grad = (jnp.float32(a) for a in arrays((4, 6, 5, 256), size))
    devices = jax.sharding.Mesh(jax.devices()[:4], "data")
    apart = NamedSharding(devices, PartitionSpec("data"))
    x, grad = jax.device_put((x, grad), apart)
    program = jax.jit(_both).lower(x, kernel, grad).compile()
    assert "all-gather" not in program.as_text()
    out, (grad_x, grad_kernel) = program(x, kernel, grad)
    together = slow_gradients(np.asarray(x), np.asarray(kernel), np.asarray(grad))[1]
    np.testing.assert_allclose(grad_kernel, together, atol=1e-4)
    assert out.sharding.is_equivalent_to(apart, 4) and grad_x.sharding.is_equivalent_to(apart, 4)
