"""Decoder heads against recorded outputs of mmsegmentation, whole networks from image to logits."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from attnseg.core.errors import UserError
from attnseg.core.tree import count, flat, nested
from attnseg.core.types import Features
from attnseg.layers.em_attention import EMAttention
from attnseg.layers.nonlocal_attention import ChannelAttention, NonLocal2d
from attnseg.models.backbones.resnet import ResNet
from attnseg.models.heads.aspp import ASPPHead
from attnseg.models.heads.danet import DANetHead
from attnseg.models.heads.emanet import EMANetHead
from attnseg.models.heads.fcn import FCNHead
from attnseg.models.heads.non_local import NonLocalHead
from attnseg.models.heads.psp import PSPHead
from attnseg.models.heads.upernet import UPerNetHead
from attnseg.ops.resize import bilinear_matrix, resize_bilinear
from attnseg.weights import mmseg_heads, resnet
from attnseg.weights.rules import recognise, translate, untranslate

KEYS = json.loads((Path(__file__).parents[1] / "weights" / "mmseg_heads_keys.json").read_text())
HEADS = {
    "fcn": FCNHead,
    "psp": PSPHead,
    "aspp": ASPPHead,
    "danet": DANetHead,
    "emanet": EMANetHead,
    "nonlocal": NonLocalHead,
    "upernet": UPerNetHead,
}
AUXILIARY = functools.partial(FCNHead, width=256, convs=1, concat=False, stage=-2)
SMALL = {
    "fcn": FCNHead(7, 16),
    "psp": PSPHead(7, 16),
    "aspp": ASPPHead(7, 16, low_width=6),
    "danet": DANetHead(7, 16, 8),
    "emanet": EMANetHead(7, 8, 16, 6),
    "nonlocal": NonLocalHead(7, 16),
    "upernet": UPerNetHead(7, 16),
}
RECORDED = {
    "mmseg_fcn_r18w8": (SMALL["fcn"], "mmsegmentation FCN"),
    "mmseg_psp_r18w8": (SMALL["psp"], "mmsegmentation PSPNet"),
    "mmseg_aspp_r18w8": (ASPPHead(7, 16, separable=False, low_width=0), "mmsegmentation DeepLabV3"),
    "mmseg_sepaspp_r18w8": (SMALL["aspp"], "mmsegmentation DeepLabV3+"),
    "mmseg_da_r18w8": (SMALL["danet"], "mmsegmentation DANet"),
    "mmseg_ema_r18w8": (SMALL["emanet"], "mmsegmentation EMANet"),
    "mmseg_nl_r18w8": (SMALL["nonlocal"], "mmsegmentation NonLocal"),
}
D8 = (4, 8, 8, 8)


def read(state, parts):
    """The variables of `parts`, every key of the state being known."""
    layouts = recognise(state, (*resnet.LAYOUTS, *mmseg_heads.LAYOUTS))
    translated, unknown = translate(state, layouts)
    assert not unknown
    tree = nested({k: jnp.asarray(v) for k, v in translated.items()})
    return [{c: values[part] for c, values in tree.items() if part in values} for part in parts]


def features(widths=(8, 12, 16, 24), strides=(4, 8, 16, 32), size=(68, 100), n=2, rng=None):
    """Maps of arbitrary, odd grids; zeros or random."""
    shapes = [
        (n, -(-size[0] // s), -(-size[1] // s), w) for s, w in zip(strides, widths, strict=True)
    ]
    maps = [np.zeros(s) if rng is None else rng.normal(size=s) for s in shapes]
    return Features(tuple(jnp.float32(x) for x in maps), strides, widths)


def main_logits(out):
    return out[0] if isinstance(out, tuple) else out


def shapes(head, inputs):
    return jax.eval_shape(
        lambda x: head.init_with_output(jax.random.key(0), x, train=False), inputs
    )


def randomised(head, inputs):
    """Variables that hide nothing: no zero gates, no unit scales."""
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map(
        lambda x: jnp.float32(np.abs(rng.normal(size=x.shape)) / np.prod(x.shape[:-1]) ** 0.5),
        shapes(head, inputs)[1],
    )


BACKBONE = ResNet((2, 2, 2, 2), block="basic", width=8, stem="deep", stem_width=8, dilation="os8")


@jax.jit
def backbone(variables, images):
    return BACKBONE.apply(variables, images, train=False)


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_equal_recorded_ones(name):
    golden = Golden(name)
    head, layout = RECORDED[name]
    found = [x for x in recognise(golden.state(), mmseg_heads.LAYOUTS) if x.part == "head"]
    assert [x.name for x in found] == [layout]
    assert all(getattr(head, k) == v for k, v in found[0].fields.items())
    encoder, decoder = read(golden.state(), ("backbone", "head"))
    maps = backbone(encoder, golden["in/a"])
    for i, x in enumerate(maps.maps, start=1):
        np.testing.assert_allclose(x, golden[f"out_a/stage{i}"], atol=5e-5)
    logits = main_logits(jax.jit(lambda v, x: head.apply(v, x, train=False))(decoder, maps))
    np.testing.assert_allclose(logits, golden["out_a/logits"], atol=1e-5)
    if "out_a/logits_up" in golden.file:
        enlarged = resize_bilinear(logits, golden["in/a"].shape[1:3])
        np.testing.assert_allclose(enlarged, golden["out_a/logits_up"], atol=1e-5)


@pytest.mark.parametrize("mode", ["embedded_gaussian", "dot_product", "gaussian"])
def test_nonlocal_block_equals_recorded_one(mode):
    golden = Golden(f"nonlocal2d_{mode}")
    state = {f"decode_head.nl_block.{k}": v for k, v in golden.state().items()}
    (layout,) = recognise(state, mmseg_heads.LAYOUTS)
    assert layout.fields.get("mode", mode) == mode
    (variables,) = read(state, ("head",))
    variables = {collection: tree["attention"] for collection, tree in variables.items()}
    module = NonLocal2d(mode=mode)
    out = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, golden["in/a"])
    np.testing.assert_allclose(out, golden["out_a/y"], atol=1e-5)


def plain_upernet(state, maps, pools, align_corners):
    """UPerNet in float64 from mmsegmentation's own names; nothing was recorded from it."""
    state = {k.removeprefix("decode_head."): np.float64(v) for k, v in state.items()}

    def conv_norm(x, name):
        kernel = state[name + ".conv.weight"]
        half = kernel.shape[-1] // 2
        padded = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))
        x = np.einsum("nhwcij,ocij->nhwo", windows, kernel)
        mean, var = (state[f"{name}.bn.running_{k}"] for k in ("mean", "var"))
        x = (x - mean) / np.sqrt(var + 1e-5) * state[name + ".bn.weight"]
        return np.maximum(x + state[name + ".bn.bias"], 0.0)

    def enlarge(x, like):
        sides = zip(x.shape[1:3], like.shape[1:3], strict=True)
        rows, columns = (np.float64(bilinear_matrix(s, t, align_corners)) for s, t in sides)
        return np.einsum("Hh,Ww,nhwc->nHWc", rows, columns, x)

    def pool(x, side):
        def edges(size):
            return [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]

        return np.stack(
            [
                np.stack([x[:, a:b, c:d].mean((1, 2)) for c, d in edges(x.shape[2])], 1)
                for a, b in edges(x.shape[1])
            ],
            1,
        )

    top = maps[-1]
    pooled = [conv_norm(pool(top, p), f"psp_modules.{i}.1") for i, p in enumerate(pools)]
    laterals = [conv_norm(x, f"lateral_convs.{i}") for i, x in enumerate(maps[:-1])]
    laterals.append(
        conv_norm(np.concatenate([top, *(enlarge(x, top) for x in pooled)], -1), "bottleneck")
    )
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + enlarge(laterals[i], laterals[i - 1])
    out = [conv_norm(x, f"fpn_convs.{i}") for i, x in enumerate(laterals[:-1])]
    out.append(laterals[-1])
    x = conv_norm(np.concatenate([enlarge(x, out[0]) for x in out], -1), "fpn_bottleneck")
    return x @ state["conv_seg.weight"][..., 0, 0].T + state["conv_seg.bias"]


@pytest.mark.parametrize("align_corners", [False, True])
def test_upernet_equals_the_plain_one(align_corners):
    rng = np.random.default_rng(0)
    small = {256: 8, 512: 16, 1024: 24, 2048: 32, 4096: 96, 19: 5}
    state = {}
    for key, shape in KEYS["networks"]["mmseg_upernet_r50_d8_19"]["keys"].items():
        if key.startswith("decode_head."):
            # The concatenation of four maps is the one 2048 that is no stage's width.
            bottleneck = key == "decode_head.fpn_bottleneck.conv.weight"
            shape = [64 if bottleneck and side == 2048 else small.get(side, side) for side in shape]
            value = rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5
            state[key] = np.float32(np.abs(value) + 0.5 if key.endswith("var") else value)
    inputs = features((8, 16, 24, 32), size=(51, 83), rng=rng)
    head = UPerNetHead(5, 16, align_corners=align_corners)
    (variables,) = read(state, ("head",))
    logits = jax.jit(lambda v, x: head.apply(v, x, train=False))(variables, inputs)
    expected = plain_upernet(state, [np.float64(x) for x in inputs.maps], head.pools, align_corners)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


# FACTS, section 8: ResNet-50 networks without and with the auxiliary head, at 19 classes.
AUXILIARY_PARAMETERS = 48_975_494 - 46_610_803
WIDE = features((256, 512, 1024, 2048), D8, size=(64, 96))


def test_parameter_count_of_the_auxiliary_head():
    assert count(shapes(AUXILIARY(19), WIDE)[1]["params"]) == AUXILIARY_PARAMETERS


@pytest.mark.parametrize("source", KEYS["networks"])
def test_tables_cover_published_files_and_invert(source):
    """Every key has one rule, every variable one key, and writing gives what was read."""
    entry = KEYS["networks"][source]
    rng = np.random.default_rng(0)
    state = {
        k: np.float32(rng.normal(size=[min(side, 3) for side in s]))
        for k, s in entry["keys"].items()
    }
    everything = {k: np.zeros(s, np.float32) for k, s in KEYS["backbone"].items()} | {
        k: np.broadcast_to(np.float32(0), s) for k, s in entry["keys"].items()
    }
    layouts = recognise(everything, (*resnet.LAYOUTS, *mmseg_heads.LAYOUTS))
    assert sorted(x.part for x in layouts) == ["aux_head", "backbone", "head"]
    translated, unknown = translate(everything, layouts)
    assert not unknown
    for part, head in (("head", HEADS[entry["head"]](19)), ("aux_head", AUXILIARY(19))):
        expected = {
            f"{collection}/{part}/{name}": x.shape
            for collection, tree in shapes(head, WIDE)[1].items()
            for name, x in flat(tree).items()
        }
        assert {k: v.shape for k, v in translated.items() if k.split("/")[1] == part} == expected
    heads = [x for x in layouts if x.part != "backbone"]
    back, left = untranslate(translate(state, heads)[0], heads)
    assert not left
    assert set(back) == {k for k in state if not k.endswith("num_batches_tracked")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_an_fcn_head_is_what_no_other_head_is():
    other = {"decode_head.nl_block.g.conv.weight", "decode_head.nl_block.theta.conv.weight"}
    keys = {"decode_head.convs.0.conv.weight", "decode_head.conv_seg.weight"}
    assert recognise(dict.fromkeys(keys), mmseg_heads.LAYOUTS) == [mmseg_heads.FCN]
    assert recognise(dict.fromkeys(keys | other), mmseg_heads.LAYOUTS) == [mmseg_heads.NONLOCAL]
    # Main and auxiliary head have the same keys but for their prefix.
    keys = {k.replace("decode", "auxiliary") for k in keys}
    assert recognise(dict.fromkeys(keys), mmseg_heads.LAYOUTS) == [mmseg_heads.AUXILIARY]


@pytest.mark.parametrize("name", SMALL)
def test_any_grid_in_bfloat16(name):
    """Odd and tiny grids; the compute dtype; float32 parameters, statistics and logits."""
    rng = np.random.default_rng(0)
    full, half = SMALL[name], SMALL[name].clone(dtype=jnp.bfloat16)
    for size, strides in (((33, 95), (4, 8, 16, 32)), ((8, 40), D8)):
        logits, variables = shapes(half, features(size=size, strides=strides))
        stride = 4 if name in ("aspp", "upernet") else strides[-1]
        grid = [-(-side // stride) for side in size]
        assert main_logits(logits).shape == (2, *grid, 7)
        assert {x.dtype for x in jax.tree_util.tree_leaves((logits, variables))} == {
            jnp.dtype("float32")
        }
    inputs = features(size=(34, 50), rng=rng)
    variables = randomised(full, inputs)
    outputs = [
        main_logits(jax.jit(lambda v, x, h=h: h.apply(v, x, train=False))(variables, inputs))
        for h in (full, half)
    ]
    error = np.abs(outputs[0] - outputs[1])
    assert 0 < error.mean() < 0.03 * np.std(outputs[0])


@pytest.mark.parametrize("name", SMALL)
def test_training(name):
    """Random in training alone; every parameter learns but those that algebra keeps from it."""
    inputs = features(rng=np.random.default_rng(0), size=(34, 50))
    head = SMALL[name]
    variables = randomised(head, inputs)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params, seed):
        out, updates = head.apply(
            {**variables, "params": params},
            inputs,
            train=True,
            rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"],
        )
        leaves = jax.tree_util.tree_leaves(out)
        return sum(jnp.sum(x[..., 0] ** 2) for x in leaves), (leaves[0], updates)

    (_, (first, updates)), gradients = step(variables["params"], 0)
    (_, (other, _)), _ = step(variables["params"], 1)
    assert np.abs(first - other).max() > 1e-4
    before, after = flat(variables["batch_stats"]), flat(updates["batch_stats"])
    assert all(np.abs(after[k] - before[k]).max() > 0 for k in before)
    idle = {k for k, g in flat(gradients).items() if not np.any(g)}
    assert idle == {
        "danet": {"position/key/bias"},
        "nonlocal": {"attention/key/bias"},
        "emanet": {"mid/kernel", "mid/bias"},
    }.get(name, set())


def test_em_attention_learns_its_bases_from_the_batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5, 6))
    module = EMAttention(bases=4, stages=2, momentum=0.3)
    start = module.init(jax.random.key(0), jnp.float32(x), train=True)
    bases = np.float64(start["batch_stats"]["bases"])
    np.testing.assert_allclose(np.linalg.norm(bases, axis=0), 1.0, rtol=1e-6)

    pixels, found = x.reshape(3, 20, 6), np.stack([bases] * 3)
    for _ in range(2):
        shares = np.exp(pixels @ found)
        shares /= shares.sum(-1, keepdims=True)
        found = np.einsum("nlc,nlk->nck", pixels, shares / shares.sum(1, keepdims=True))
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    rebuilt = np.einsum("nlk,nck->nlc", shares, found).reshape(x.shape)
    mean = found.mean(0)
    moved = 0.7 * bases + 0.3 * mean / np.linalg.norm(mean, axis=0)

    run = jax.jit(
        lambda v, x, train: module.apply(v, x, train=train, mutable=["batch_stats"]),
        static_argnames="train",
    )
    for train, expected in ((True, moved), (False, bases)):
        out, updates = run(start, jnp.float32(x), train=train)
        np.testing.assert_allclose(out, rebuilt, atol=1e-5)
        np.testing.assert_allclose(updates["batch_stats"]["bases"], expected, atol=1e-6)


def test_attention_blocks_start_as_the_identity():
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 5, 16)))
    blocks = [NonLocal2d(mode=m) for m in ("embedded_gaussian", "dot_product", "gaussian")]

    @jax.jit
    def run(x):
        key = jax.random.key(0)
        outputs = [block.init_with_output(key, x, train=True)[0] for block in blocks]
        return [*outputs, ChannelAttention().init_with_output(key, x)[0]]

    for out in run(x):
        np.testing.assert_array_equal(out, x)
    params = shapes(SMALL["danet"], features())[1]["params"]
    assert params["position"]["gamma"].shape == params["channel"]["gamma"].shape == (1,)


def test_danet_returns_the_logits_of_its_branches():
    logits, (position, channel) = shapes(SMALL["danet"], features())[0]
    assert logits.shape == position.shape == channel.shape == (2, 3, 4, 7)


def test_variants_without_a_recording():
    inputs = features()
    params = shapes(FCNHead(7, 16, convs=1, kernel=1, concat=False, stage=1), inputs)[1]["params"]
    assert set(params) == {"conv1", "classifier"}
    assert params["conv1"]["conv"]["kernel"].shape == (12, 16)
    logits, variables = shapes(ASPPHead(7, 16, (1, 2), low_width=0), inputs)
    assert logits.shape == (2, 3, 4, 7)
    assert set(variables["params"]) == {"aspp", "refine1", "refine2", "classifier"}
    logits, _ = shapes(UPerNetHead(7, 16), features((8,), (16,)))
    assert logits.shape == (2, 5, 7, 7)


def test_fields_are_checked():
    with pytest.raises(UserError, match="convs=0; at least one"):
        FCNHead(7, convs=0)
    with pytest.raises(UserError, match="kernel=2 must be odd"):
        FCNHead(7, kernel=2)
    with pytest.raises(UserError, match="set low_width=0 too"):
        ASPPHead(7, separable=False)
    with pytest.raises(UserError, match='mode "gauss" is none of embedded_gaussian'):
        shapes(NonLocalHead(7, 16, mode="gauss"), features())
    with pytest.raises(UserError, match="2 channels cannot be reduced 4 times"):
        shapes(NonLocalHead(7, 2, reduction=4), features())
    with pytest.raises(UserError, match="reads stage 4, but the backbone has 4: -4 to 3"):
        shapes(PSPHead(7, 16, stage=4), features())
