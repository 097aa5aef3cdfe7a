"""Position logits against the obvious loop over pairs of pixels in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.ops.relative_position import (
    absolute_logits,
    query_place_logits,
    relative_logits,
    resize_absolute,
    resize_relative,
)

M, D = 2, 3


def relative(query, height, width, i, j):
    h, w = query.shape[:2]
    r = height[j[0] - i[0] + h - 1] + width[j[1] - i[1] + w - 1]
    return query[i] @ r


def absolute(query, height, width, i, j):
    return query[i] @ (height[j[0]] + width[j[1]])


def query_place(query, height, width, i, j):
    return np.sum(query[j] * (height[i[0]] + width[i[1]]), axis=-1)


def tables(kind, h, w, rng):
    if kind is relative:
        return rng.normal(size=(2 * h - 1, D)), rng.normal(size=(2 * w - 1, D))
    head = (M,) if kind is query_place else ()
    return rng.normal(size=(h, *head, D)), rng.normal(size=(w, *head, D))


@pytest.mark.parametrize(("h", "w"), [(4, 5), (3, 1), (1, 1)])
@pytest.mark.parametrize(
    ("function", "slow"),
    [(relative_logits, relative), (absolute_logits, absolute), (query_place_logits, query_place)],
)
def test_logits_equal_the_loop_over_pairs(function, slow, h, w):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, h, w, M, D))
    height, width = tables(slow, h, w, rng)
    expected = np.zeros((2, M, h, w, h, w))
    places = list(itertools.product(range(h), range(w)))
    for n, i, j in itertools.product(range(2), places, places):
        expected[(n, slice(None), *i, *j)] = slow(query[n], height, width, i, j)
    rows, columns = jax.jit(function)(*(jnp.float32(x) for x in (query, height, width)))
    assert max(rows.size, columns.size) <= 2 * M * h * w * max(h, w)
    np.testing.assert_allclose(np.float64(rows) + np.float64(columns), expected, atol=1e-5)


def test_logits_are_float32_whatever_the_query():
    query = jnp.ones((1, 2, 3, M, D), jnp.bfloat16)
    for part in relative_logits(query, jnp.ones((3, D)), jnp.ones((5, D))):
        assert part.dtype == jnp.float32


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (5, 1), (1, 3), (2, 9)])
def test_relative_tables_keep_zero_and_the_largest_offsets(old, new):
    table = np.random.default_rng(0).normal(size=(2 * old - 1, D))
    out = np.asarray(resize_relative(jnp.float32(table), new))
    assert out.shape == (2 * new - 1, D)
    np.testing.assert_allclose(out[new - 1], table[old - 1], atol=1e-6)
    for k in range(-new + 1, new):
        at = k * (old - 1) / (new - 1) + old - 1 if new > 1 else old - 1
        low = min(int(at), 2 * old - 2)
        high = min(low + 1, 2 * old - 2)
        expected = table[low] * (1 - (at - low)) + table[high] * (at - low)
        np.testing.assert_allclose(out[k + new - 1], expected, atol=1e-5)


def test_tables_of_another_grid_are_refused():
    query = jnp.ones((1, 2, 3, M, D))
    with pytest.raises(UserError, match="5 offsets does not fit 2 pixels; 3 do"):
        relative_logits(query, jnp.ones((5, D)), jnp.ones((5, D)))


def test_tables_of_the_same_grid_are_left_alone():
    table = jnp.float32(np.random.default_rng(0).normal(size=(7, D)))
    assert resize_relative(table, 4) is table
    assert resize_absolute(table, 7) is table
    assert resize_absolute(table[:, None], 3).shape == (3, 1, D)
    # A table that grows evenly still does: centres of pixels map to places between pixels.
    ramp = resize_absolute(jnp.arange(8.0)[:, None], 4)[:, 0]
    np.testing.assert_allclose(ramp, [0.5, 2.5, 4.5, 6.5], atol=1e-6)
