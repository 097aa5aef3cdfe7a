"""MiT with learned positions, the other half of SegFormer's resolution experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import fill

import attnseg
from attnseg.core.errors import UserError
from attnseg.core.tree import named_leaves
from attnseg.models.backbones.mit import LearnedPosition

SIZE = (64, 96)


def shapes(position, size=SIZE):
    model = attnseg.create_model(
        "segformer_b0", 3, backbone=dict(position=position, widths=(4, 8, 20, 32))
    )
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return model, jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def test_tables_take_the_place_of_the_convolutions():
    mix = dict(named_leaves(shapes("mix_ffn")[1]["params"]))
    learned = dict(named_leaves(shapes("learned")[1]["params"]))
    gone = {name for name in mix if "ffn/depthwise" in name}
    assert len(gone) == 2 * 8
    tables = {f"backbone/stage{i}_position/table" for i in (1, 2, 3, 4)}
    assert set(learned) == set(mix) - gone | tables
    grids = [learned[name].shape for name in sorted(tables)]
    assert grids == [(16, 24, 4), (8, 12, 8), (4, 6, 20), (2, 3, 32)]
    with pytest.raises(UserError, match='position "sine" is none of'):
        attnseg.create_model("segformer_b0", 3, backbone=dict(position="sine"))


def test_the_table_is_interpolated_on_another_grid():
    table = np.arange(6.0, dtype=np.float32).reshape(2, 3, 1)
    layer, zeros = LearnedPosition(), jnp.zeros((1, 4, 6, 1))
    variables = {"params": {"table": jnp.asarray(table)}}
    np.testing.assert_array_equal(layer.apply(variables, zeros[:, :2, :3])[0], table)
    larger = np.asarray(layer.apply(variables, zeros))[0, :, :, 0]
    # Half-pixel centres: a quarter of the way between neighbours, the border repeated.
    rows = np.array([0, 0.25, 0.75, 1])[:, None] * 3
    columns = np.array([0, 0.25, 0.75, 1.25, 1.75, 2])
    np.testing.assert_allclose(larger, rows + columns, atol=1e-6)


def test_a_network_of_one_size_runs_on_another_and_tells_places_apart():
    model, small = shapes("learned")
    variables = fill(small)
    images = jnp.ones((1, 96, 160, 3))

    def maps(variables):
        method = lambda m, x: m.backbone(x, train=False).maps  # noqa: E731
        return model.apply(variables, images, method=method)

    grids = [x.shape[1:3] for x in jax.eval_shape(maps, variables)]
    assert grids == [(24, 40), (12, 20), (6, 10), (3, 5)]
    # Inside, the convolution before the first stage sees the same everywhere; the table makes the
    # difference.
    finest = jax.jit(lambda variables: maps(variables)[0][0, 4:-4, 4:-4].std((0, 1)).max())
    assert finest(variables) > 0.01
    variables["params"]["backbone"]["stage1_position"]["table"] *= 0
    assert finest(variables) < 1e-5
