"""Maps of layers and networks, against what the layers put out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import fill

import attnseg
from attnseg.core.errors import UserError
from attnseg.infer.inside import Inside, attention_maps, has_attention, look_inside
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.layers.efficient_attention import EfficientAttention
from attnseg.layers.hamburger import Hamburger, evaluation_bases
from attnseg.layers.nonlocal_attention import PositionAttention
from attnseg.layers.record import RECORDS
from attnseg.layers.relpos_attention import MHSA
from attnseg.layers.window_attention import WindowAttention
from attnseg.ops.nmf import nmf

H, W = 3, 4
N = H * W
HEADS = 2
LAYERS = {
    "efficient": (EfficientAttention(HEADS, 1), HEADS, 0),
    "botnet": (MHSA(N, HEADS), HEADS, 0),
    "botnet, no scale": (MHSA(N, HEADS, position="absolute", scale="none"), HEADS, 0),
    "botnet, transposed": (MHSA(N, HEADS, transpose=True), HEADS, 0),
    "swin": (WindowAttention(HEADS, (2, 2), False), HEADS, 0),
    "swin, shifted": (WindowAttention(HEADS, (2, 2), True), HEADS, 0),
    "criss-cross": (CrissCrossAttention(reduction=3), 1, 1),
    "danet": (PositionAttention(4), 1, 1),
}


def identity(params):
    """Values and outputs pass unchanged, gates are open; queries and keys stay random."""

    def change(path, x):
        names = [key.key for key in path]
        if "value" in names or "out" in names:
            return jnp.eye(N) if names[-1] == "kernel" else jnp.zeros_like(x)
        return jnp.ones_like(x) if names[-1] == "gamma" else x

    return jax.tree_util.tree_map_with_path(change, params)


@pytest.mark.parametrize("name", LAYERS)
def test_the_map_is_what_the_layer_gathers_with(name):
    """With one-hot pixels as values, channel j of the output is the share of pixel j."""
    layer, heads, skip = LAYERS[name]
    x = jnp.eye(N).reshape(1, H, W, N)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert RECORDS not in shapes
    variables = {"params": identity(fill(shapes)["params"])}
    out, records = layer.apply(variables, x, mutable=[RECORDS])
    shares = np.asarray(out - skip * x).reshape(N, N)
    inside = Inside(records[RECORDS], (H, W))
    for pixel in range(N):
        maps = list(inside.attention(divmod(pixel, W)).values())
        assert len(maps) == heads
        for j in range(N):  # the head that channel j belongs to
            found = maps[j * heads // N].ravel()[j]
            np.testing.assert_allclose(found, shares[pixel, j], atol=1e-6)
        if not name.startswith("swin") and "transposed" not in name:
            np.testing.assert_allclose([m.sum() for m in maps], 1, rtol=1e-5)
    assert not isinstance(layer.apply(variables, x), tuple)


def test_shares_of_bases_rebuild_what_the_hamburger_sees():
    layer = Hamburger(8, rank=3, groups=4)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, H, W, 8)), jnp.float32)
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=False), x)
    params = fill(shapes)["params"]
    records = layer.apply({"params": params}, x, train=False, mutable=[RECORDS])[1][RECORDS]
    maps = Inside(records, (H, W)).activations()
    assert list(maps) == ["basis1", "basis2", "basis3"]
    # The rank-3 reconstruction lies in the span of the maps.
    seen = jax.nn.relu(x.reshape(N, 8) @ params["ham_in"]["kernel"] + params["ham_in"]["bias"])
    rebuilt = nmf(seen[None], jnp.asarray(evaluation_bases(8, 3)), layer.eval_steps)[0]
    columns = np.stack([m.ravel() for m in maps.values()], -1)
    rest = np.linalg.lstsq(columns, np.asarray(rebuilt), rcond=None)[1]
    assert np.abs(rest).max() < 1e-8
    assert all((m >= 0).all() for m in maps.values())


def random_network(name, size, **fields):
    model = attnseg.create_model(name, 4, **fields)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return model, fill(shapes)


TINY = dict(widths=(4, 4, 8, 8), depths=(1, 2, 1, 1))


def test_a_network_names_its_layers_in_order():
    backbone = dict(TINY, heads=(1, 2, 1, 2))
    model, variables = random_network(
        "segformer_b0", (64, 96), backbone=backbone, head={"width": 8}
    )
    image = np.random.default_rng(0).normal(size=(64, 96, 3)).astype(np.float32)
    inside = look_inside(model, variables, image)
    maps = inside.attention((63, 95))
    assert list(maps) == [
        "stage1 block1", "stage2 block1 head1", "stage2 block1 head2", "stage2 block2 head1",
        "stage2 block2 head2", "stage3 block1", "stage4 block1 head1", "stage4 block1 head2",
    ]  # fmt: skip
    assert maps["stage1 block1"].shape == (2, 3)  # keys: 16x24 reduced 8 times
    for values in maps.values():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.sum(), 1, rtol=1e-5)
    assert has_attention(model, (64, 96))
    assert inside.activations() == {}
    with pytest.raises(UserError, match=r"y=64, x=0\) is not in the image of 64x96"):
        inside.attention((64, 0))
    with pytest.raises(UserError, match="image has shape"):
        look_inside(model, variables, image[..., :2])


def test_criss_cross_network_has_a_map_for_each_recurrence():
    fields = dict(width=4, depths=(1, 1, 1, 1))
    name = "resnet18c_d8+rcca"
    model, variables = random_network(name, (64, 64), backbone=fields, head={"width": 16})
    image = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    maps = attention_maps(model, variables, image, (20, 40))
    assert list(maps) == ["criss-cross R=1", "criss-cross R=2"]
    one, two = maps.values()
    assert one.shape == (8, 8)
    assert (one[2] > 0).all() and (one[:, 5] > 0).all() and (one > 0).sum() == 15
    assert (two > 0).all()


def test_gates_of_segnext_belong_to_no_pixel():
    backbone = dict(widths=(4, 4, 8, 8), depths=(1, 1, 1, 1))
    head = dict(width=8, rank=2, groups=4)
    model, variables = random_network("segnext_t", (64, 64), backbone=backbone, head=head)
    image = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    inside = look_inside(model, variables, image)
    assert inside.attention((0, 0)) == {}
    assert not has_attention(model, (64, 64))
    names = [f"stage{i} block1 gate" for i in (1, 2, 3, 4)]
    assert list(inside.activations()) == [*names, "hamburger basis1", "hamburger basis2"]
