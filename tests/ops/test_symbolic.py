"""Resizing, pooling and position tables with sizes that only the exported program knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.ops.pooling import adaptive_average_pools
from attnseg.ops.relative_position import resize_absolute, resize_relative
from attnseg.ops.resize import resize_bilinear


def exported(function, shapes, constraints=()):
    """`function` after tracing with symbolic sizes, and the shapes at which to try it."""
    scope = jax.export.SymbolicScope(constraints)
    arguments = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(s, scope=scope), jnp.float32) for s in shapes
    ]
    return jax.jit(jax.export.export(jax.jit(function))(*arguments).call)


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_equals_that_of_known_sizes(align_corners):
    def resize(x, like):
        return resize_bilinear(x, like.shape, align_corners=align_corners)

    program = exported(resize, ["n, h, w, 2", "a, b"])
    for (h, w), (a, b) in [
        ((5, 7), (20, 28)),
        ((8, 9), (3, 31)),
        ((4, 4), (4, 4)),
        ((1, 3), (6, 1)),
        ((3, 65), (1, 521)),
    ]:
        x, like = draw(2, h, w, 2), np.zeros((a, b), np.float32)
        np.testing.assert_allclose(program(x, like), resize(x, like), atol=3e-6)


def test_pooling_equals_that_of_known_sizes():
    def pool(x):
        return adaptive_average_pools(x, (1, 2, 3, 6))

    program = exported(pool, ["n, h, w, 3"])
    for shape in [(1, 12, 18, 3), (2, 7, 5, 3), (1, 4, 31, 3)]:
        x = draw(*shape)
        for found, expected in zip(program(x), pool(x), strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("resize, rows", [(resize_relative, 9), (resize_absolute, 5)])
def test_position_tables_equal_those_of_known_sizes(resize, rows):
    table = draw(rows, 4)
    program = exported(lambda x: resize(jnp.asarray(table), x.shape[0]), ["l"])
    for length in (1, 2, 5, 8):
        expected = resize(jnp.asarray(table), length)
        found = program(np.zeros(length, np.float32))
        np.testing.assert_allclose(found, expected, atol=2e-6)
