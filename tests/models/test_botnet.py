"""BoTNet's attention and network against recorded outputs of timm and three other codes."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from attnseg.core.errors import UserError
from attnseg.core.tree import flat, nested
from attnseg.layers.conv_norm import ConvNorm
from attnseg.layers.norm import BatchNorm
from attnseg.layers.relpos_attention import MHSA
from attnseg.models.assembled import Classifier
from attnseg.models.backbones.botnet import SIZES, BoTNet
from attnseg.models.heads.linear import LinearHead
from attnseg.weights import botnet, resnet
from attnseg.weights.rules import recognise, translate, untranslate

KEYS = json.loads((Path(__file__).parents[1] / "weights" / "botnet_keys.json").read_text())
LAYOUTS = botnet.LAYOUTS + resnet.LAYOUTS
# FACTS, section 6: 1000 classes, images of 224 unless said.


def shapes(model, size):
    image = jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def read(state):
    """Variables, every key being known."""
    layouts = recognise(state, LAYOUTS)
    translated, unknown = translate(state, layouts)
    assert not unknown
    return nested({k: jnp.asarray(v) for k, v in translated.items()})


def timm_attention(state):
    """Parameters of one attention in timm's names, by our table."""
    state = {f"layer4.0.conv2.{k}": v for k, v in state.items()}
    translated, unknown = translate(state, [botnet.TIMM])
    assert not unknown
    return nested(translated)["params"]["backbone"]["stage4_block1"]["conv2"]


def lucid_attention(state):
    names = {
        "to_qkv.weight": "qkv.weight",
        "pos_emb.rel_height": "pos_embed.height_rel",
        "pos_emb.rel_width": "pos_embed.width_rel",
        "pos_emb.height": "pos_embed.height_rel",
        "pos_emb.width": "pos_embed.width_rel",
    }
    return timm_attention({names[k]: v for k, v in state.items()})


def leader_attention(state):
    """Its "width" is the second axis of an image, our height; tables are [1 m d W 1]."""
    params = {
        name: {
            "kernel": state[f"{name}.weight"][:, :, 0, 0].T,
            "bias": state[f"{name}.bias"],
        }
        for name in ("query", "key", "value")
    }
    tables = {"height": state["rel_w"][0, :, :, :, 0], "width": state["rel_h"][0, :, :, 0]}
    return params | {k: v.transpose(2, 0, 1) for k, v in tables.items()}


ALL = dict(scale="all")
LEADER = dict(position="query_place", scale="none", use_bias=True)


@pytest.mark.parametrize(
    ("name", "convert", "fields", "output"),
    [
        ("timm_bottleneck_attn", timm_attention, dict(features=16), "out_a/y"),
        ("timm_bottleneck_attn_scalepos", timm_attention, dict(features=16) | ALL, "out_a/y"),
        ("timm_bottleneck_attn_stride2", timm_attention, dict(features=32, stride=2), "out_a/y"),
        ("lucid_attention_rel", lucid_attention, dict(features=20) | ALL, "out_a/y"),
        (
            "lucid_attention_abs",
            lucid_attention,
            dict(features=20, position="absolute") | ALL,
            "out_a/y",
        ),
        ("leader_mhsa", leader_attention, dict(features=16) | LEADER, "out_a/y"),
        (
            "post_botnet_mhsa",
            leader_attention,
            dict(features=16, transpose=True) | LEADER,
            "out/y",
        ),
    ],
)
def test_attention_equals_recorded_one(name, convert, fields, output):
    golden = Golden(name)
    module = MHSA(**fields)
    params = {"params": convert(golden.state())}
    initial = jax.eval_shape(lambda: module.init(jax.random.key(0), golden["in/a"]))
    assert jax.tree.map(lambda x: x.shape, initial) == jax.tree.map(lambda x: x.shape, params)
    out = jax.jit(module.apply)(params, golden["in/a"])
    np.testing.assert_allclose(out, golden[output], atol=1e-5)


class BottleStackBlock(nn.Module):
    """A block of lucidrains' BottleStack, with this library's parts."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = ConvNorm(8, name="down")(x, train=False)
        y = MHSA(8, heads=2, stride=self.stride, scale="all", name="attention")(y)
        y = nn.relu(BatchNorm(name="norm")(y, train=False))
        y = ConvNorm(self.width, activation=None, name="up")(y, train=False)
        if self.stride > 1:
            x = ConvNorm(self.width, 3, self.stride, name="shortcut")(x, train=False)
        return nn.relu(x + y)


def test_stack_of_blocks_equals_recorded_one():
    golden = Golden("lucid_bottlestack_rel")
    state = golden.state()

    def norm(name):
        affine = {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}
        return affine, {"mean": state[f"{name}.running_mean"], "var": state[f"{name}.running_var"]}

    x = golden["in/a"]
    for i, stride in enumerate((2, 1)):
        prefix = f"net.{i}.net."
        attention = {k.removeprefix(prefix + "3."): v for k, v in state.items()}
        attention = {k: v for k, v in attention.items() if k.startswith(("to_qkv", "pos_emb"))}
        params, stats = {"attention": lucid_attention(attention)}, {}
        params["norm"], stats["norm"] = norm(prefix + "5")
        parts = {"down": (prefix + "0", prefix + "1"), "up": (prefix + "7", prefix + "8")}
        if stride > 1:
            parts["shortcut"] = ("net.0.shortcut.0", "net.0.shortcut.1")
        for part, (kernel, its_norm) in parts.items():
            kernel = state[kernel + ".weight"].transpose(2, 3, 1, 0)
            affine, running = norm(its_norm)
            kernel = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel
            params[part] = {"conv": {"kernel": kernel}, "norm": affine}
            stats[part] = {"norm": running}
        block = BottleStackBlock(32, stride)
        x = jax.jit(block.apply)({"params": params, "batch_stats": stats}, x)
    np.testing.assert_allclose(x, golden["out_a/y"], atol=1e-5)


def tiny(**fields):
    options = dict(depths=(2, 2, 2, 3), width=8, stem_width=64)
    return BoTNet(**(options | fields))


def test_network_equals_recorded_one():
    golden = Golden("botnet50style_timm_w8")
    model = Classifier(tiny(), LinearHead(11))
    variables = read(golden.state())
    names = set(flat(shapes(model, (64, 96))))
    assert set(flat(variables)) == names

    def run(module, images):
        features = module.backbone(images, train=False)
        return features.maps, module.head(features, train=False)

    maps, logits = jax.jit(lambda v, x: model.apply(v, x, method=run))(variables, golden["in/a"])
    for stage, ours in enumerate(maps, start=1):
        np.testing.assert_allclose(ours, golden[f"out_a/stage{stage}"], atol=1e-4)
    np.testing.assert_allclose(logits, golden["out_a/logits"], atol=1e-4)


def test_any_size_with_the_same_parameters():
    """A rectangle, its transpose, odd sides, a single row."""
    model = tiny()
    variables = shapes(model, (64, 96))
    for size in ((96, 64), (65, 97), (16, 48)):
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        maps = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images).maps
        for stride, x in zip((4, 8, 16, 32), maps, strict=True):
            assert x.shape[1:3] == (-(-size[0] // stride), -(-size[1] // stride))
    # S1 and dilated networks keep the grid of an earlier stage.
    images = jnp.zeros((1, 65, 97, 3))
    for dilation, stride in (("s1", 16), ("os8", 8)):
        model = tiny(dilation=dilation)
        features, _ = jax.eval_shape(
            lambda m=model: m.init_with_output(jax.random.key(0), images, train=False)
        )
        assert features.strides[3] == stride
        assert features.maps[3].shape[1:3] == (-(-65 // stride), -(-97 // stride))


@pytest.mark.parametrize("position", ["relative", "query_place"])
def test_attention_on_another_grid(position):
    """The tables of a 4x6 grid on a 5x3 one are the interpolated tables on their own grid."""
    module = MHSA(16, position=position)
    x = jax.random.normal(jax.random.key(2), (1, 5, 3, 16))
    params = jax.jit(lambda: module.init(jax.random.key(1), jnp.ones((1, 4, 6, 16))))()["params"]

    def resized(table, old, new):
        if position == "relative":  # zero on zero, the largest offset on the largest
            at, length = np.linspace(0, 2 * old - 2, 2 * new - 1), 2 * old - 1
        else:
            at, length = (np.arange(new) + 0.5) * old / new - 0.5, old
        assert table.shape[0] == length
        columns = np.asarray(table).reshape(length, -1).T
        out = np.stack([np.interp(at, np.arange(length), column) for column in columns], axis=1)
        return jnp.float32(out.reshape(len(at), *table.shape[1:]))

    tables = {
        "height": resized(params["height"], 4, 5),
        "width": resized(params["width"], 6, 3),
    }
    run = jax.jit(lambda *all: [module.apply({"params": p}, x) for p in all])
    ours, expected, wrong = run(params, params | tables, params | {"width": tables["width"] * 0})
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.abs(wrong - expected).max() > 1e-2


def test_reflection_of_image_and_tables():
    """Offsets are counted from query to key: mirrored tables see the mirrored image alike."""
    module = MHSA(16)
    x = jax.random.normal(jax.random.key(0), (1, 4, 6, 16))
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    mirrored = params | {k: params[k][::-1] for k in ("height", "width")}
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x))
    out = apply(mirrored, x[:, ::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_allclose(out, apply(params, x), atol=1e-5)
    assert np.abs(apply(mirrored, x) - apply(params, x)).max() > 1e-3


def test_low_precision_and_gradients():
    """bfloat16 computes with float32 parameters; every table is reached by a gradient."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 16))
    full, half = (MHSA(16, stride=2, dtype=d) for d in (None, jnp.bfloat16))
    params = jax.jit(full.init)(jax.random.key(1), x)
    outs = [jax.jit(m.apply)(params, x) for m in (full, half)]
    assert outs[1].dtype == jnp.bfloat16 and outs[0].shape == (2, 2, 3, 16)
    np.testing.assert_allclose(outs[0], np.float32(outs[1]), atol=0.05)
    # Odd grids: the last window averages the pixels it has.
    whole = jax.jit(MHSA(16).apply)(params, x)
    np.testing.assert_allclose(outs[0][:, 1, 2], whole[:, 2, 4], atol=1e-6)
    np.testing.assert_allclose(outs[0][:, 0, 2], whole[:, :2, 4].mean(1), atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(full.apply(p, x) ** 2)))(params)
    assert all(np.abs(g).min(-1).max() > 0 for g in jax.tree.leaves(gradient))


def test_table_of_botnet26t_is_complete_and_inverts():
    entry = KEYS["timm_botnet26t_256"]
    rng = np.random.default_rng(0)
    state = {k: np.float32(rng.normal(size=s)) for k, s in entry["keys"].items()}
    layout, _ = layouts = recognise(state, LAYOUTS)
    translated, unknown = translate(state, layouts)
    assert not unknown and layout is botnet.TIMM_26T
    backbone = BoTNet(**SIZES["botnet26t"])
    model = Classifier(backbone, LinearHead(entry["classes"]))
    expected = flat(shapes(model, (entry["image"], entry["image"])))
    squeezed = {k: v.shape for k, v in translated.items()}
    assert squeezed == {k: x.shape for k, x in expected.items()}
    assert all(getattr(backbone, k) == v for k, v in layout.fields.items())
    back, left = untranslate(translated, layouts)
    assert not left
    assert set(back) == {k for k in state if not k.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_table_of_attention_in_a_torchvision_network_inverts():
    state = Golden("botnet50style_timm_w8").state()
    layout, _ = layouts = recognise(state, LAYOUTS)
    assert layout is botnet.TIMM
    back, left = untranslate(translate(state, layouts)[0], layouts)
    assert not left
    back = {k.removeprefix(layout.prefix): v for k, v in back.items()}
    assert set(back) == {k for k in state if not k.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_fields_are_checked():
    with pytest.raises(UserError, match="3 heads do not divide 16 channels"):
        MHSA(16, heads=3)
    with pytest.raises(UserError, match='Did you mean "relative"'):
        MHSA(16, position="relativ")
    with pytest.raises(UserError, match='scale "both" is none of content, all, none'):
        MHSA(16, scale="both")
    with pytest.raises(UserError, match="stride must be 1 or 2, got 4"):
        MHSA(16, stride=4)
    for attend in ((0, 0, 0, 4), (1, 1, 1)):
        with pytest.raises(UserError, match="at most depths="):
            BoTNet(**SIZES["botnet50"], attend=attend)
