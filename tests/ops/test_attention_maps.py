"""Rows of attention matrices, against the matrices themselves in float64."""

import jax
import numpy as np
import pytest

from attnseg.ops.attention_maps import criss_cross_maps, softmax_map

H, W, D = 4, 6, 3


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_a_row_of_softmax_attention():
    query, key = random(0, H, W, 2, D), random(1, 2, 3, 2, D)
    found = np.asarray(softmax_map(query, key, (3, 1)))
    assert found.shape == (2, 2, 3)
    for head in range(2):
        logits = np.array(
            [
                [query[3, 1, head].astype(float) @ key[y, x, head] for x in range(3)]
                for y in range(2)
            ]
        )
        np.testing.assert_allclose(found[head], slow_softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-6)


def dense_criss_cross(query, key):
    """The matrix [hw hw] in float64, pixel by pixel."""
    matrix = np.zeros((H * W, H * W))
    for y in range(H):
        for x in range(W):
            path = [(i, x) for i in range(H) if i != y] + [(y, j) for j in range(W)]
            logits = np.array([query[y, x].astype(float) @ key[p] for p in path])
            for (i, j), weight in zip(path, slow_softmax(logits), strict=True):
                matrix[y * W + x, i * W + j] = weight
    return matrix


@pytest.mark.parametrize("pixel", [(0, 0), (2, 3), (3, 5)])
def test_criss_cross_maps_are_rows_of_the_product_of_dense_matrices(pixel):
    layers = [(random(2 * i, H, W, D), random(2 * i + 1, H, W, D)) for i in range(3)]
    found = np.asarray(criss_cross_maps(layers, pixel))
    first, second, third = (dense_criss_cross(*layer) for layer in layers)
    row = pixel[0] * W + pixel[1]
    for index, product in enumerate((first, second @ first, third @ second @ first)):
        np.testing.assert_allclose(found[index].ravel(), product[row], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    # R = 1 is a cross, R = 2 is dense.
    cross = np.zeros((H, W), bool)
    cross[pixel[0], :] = cross[:, pixel[1]] = True
    np.testing.assert_array_equal(found[0] > 0, cross)
    assert (found[1] > 0).all()


def sizes(jaxpr):
    """Elements of everything that a program computes."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from sizes(getattr(inner, "jaxpr", inner))


def test_criss_cross_maps_form_no_matrix_of_all_pixels():
    side = 32
    layer = jax.ShapeDtypeStruct((side, side, D), np.float32)
    program = jax.make_jaxpr(lambda *a: criss_cross_maps([a[:2], a[2:]], (1, 2)))(*[layer] * 4)
    assert max(sizes(program.jaxpr)) <= side**3
