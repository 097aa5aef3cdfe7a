"""Receptive fields of functions whose derivatives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from saved_run import random_variables

from attnseg.core.errors import UserError
from attnseg.infer.receptive_field import (
    Field,
    field_names,
    receptive_fields,
    square_side,
    stage_maps,
)
from attnseg.recipe import assemble

SIDE = 17
IMAGES = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def conv(x, kernel, stride=1):
    x = jnp.moveaxis(x, -1, 1)
    kernel = jnp.asarray(kernel, jnp.float32)
    padding = [(side // 2,) * 2 for side in kernel.shape[2:]]
    x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding)
    return jnp.moveaxis(x, 1, -1)


def box(x, stride=1):
    return conv(x, np.ones((1, x.shape[-1], 3, 3)), stride)


def stack(_, x):
    """One to three 3x3 boxes, then one with stride 2 and another."""
    maps = [box(x)]
    for _ in range(2):
        maps.append(box(maps[-1]))
    return (*maps, box(box(x, stride=2)))


def test_stacked_boxes_have_the_closed_form():
    fields = receptive_fields(stack, {}, IMAGES, draws=2)
    middle, line = SIDE // 2, np.ones(3)
    for count, field in enumerate(fields[:3], start=1):
        kernel = np.ones(1)
        for _ in range(count):
            kernel = np.convolve(kernel, line)
        expected = np.zeros((SIDE, SIDE))
        reach = slice(middle - count, middle + count + 1)
        expected[reach, reach] = np.outer(kernel, kernel) / kernel.max() ** 2
        np.testing.assert_allclose(field.values, expected, atol=1e-5)
        assert field.centre == (middle + 0.5, middle + 0.5)
        assert square_side(field, 1.0) == 2 * count + 1  # the theoretical field
    assert square_side(fields[0], 1 / 9) == 1
    assert square_side(fields[0], 1 / 9 + 1e-3) == 3
    # Stride 2, then a 3x3: seven pixels around an even one.
    strided = fields[3]
    rows = np.flatnonzero(strided.values.sum(1))
    assert len(rows) == 7 and rows.mean() == 8
    assert strided.centre == (8.5, 8.5)
    patches = receptive_fields(
        lambda _, x: (x[:, ::4, ::4],), {}, IMAGES[:, :16, :16], patches=True
    )
    assert patches[0].centre == (10.0, 10.0)


def test_a_vector_of_features_counts_by_the_norm_of_its_derivative():
    kernel = np.random.default_rng(1).normal(size=(5, 3, 3, 3))
    found = receptive_fields(lambda _, x: (conv(x, kernel),), {}, IMAGES[:1, :7, :7], draws=4000)[0]
    norms = np.sqrt((kernel**2).sum((0, 1)))
    np.testing.assert_allclose(found.values[2:5, 2:5], norms / norms.max(), rtol=0.06)
    assert not found.values[:2].any()


def test_squares_at_the_border_and_dead_features():
    field = Field(np.ones((4, 4), np.float32), (3.5, 3.5), 1)
    assert square_side(field, 1.0) == 7
    assert np.isnan(square_side(field._replace(values=np.zeros((4, 4), np.float32)), 0.5))
    with pytest.raises(UserError, match="at least one image"):
        receptive_fields(stack, {}, IMAGES[:0])


def test_every_stage_of_a_network_and_its_head():
    config = tiny.config()
    model, variables = assemble.build_model(config), random_variables(config)
    maps = stage_maps(model)
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    fields = receptive_fields(maps, variables, image, draws=1)
    assert field_names(fields, model) == ["stage1", "stage2", "stage3", "stage4", "head"]
    assert [field.stride for field in fields] == [4, 8, 16, 32, 4]
    # Each stage ends with LayerNorm, under which the sum of the channels does not change.
    assert all(field.values.max() == 1 for field in fields)
