"""CCNet's attention and head against recorded outputs of its authors, mmsegmentation, the post."""

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
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.models.assembled import Segmenter
from attnseg.models.backbones.resnet import SIZES, ResNet
from attnseg.models.heads.fcn import FCNHead
from attnseg.models.heads.rcca import RCCAHead
from attnseg.objectives import cross_entropy
from attnseg.ops.resize import resize_bilinear
from attnseg.weights import ccnet, mmseg_heads, resnet
from attnseg.weights.rules import recognise, translate, untranslate

LAYOUTS = ccnet.LAYOUTS + resnet.LAYOUTS + mmseg_heads.LAYOUTS
OFFICIAL_FIELDS = ccnet.OFFICIAL_ENCODER.fields
PADDLE_FIELDS = ccnet.PADDLESEG_ENCODER.fields
MMSEG_FIELDS = dict(stem="deep", dilation="os8")
POST_FIELDS = dict(dilation="post")
KEYS = json.loads((Path(__file__).parents[1] / "weights" / "ccnet_keys.json").read_text())
HEAD_KEYS = ("decode_head.", "head.")


def read(state):
    """Variables of every part of a file, all of whose keys must be known."""
    translated, unknown = translate(state, recognise(state, LAYOUTS))
    assert not unknown
    return nested({k: jnp.asarray(v) for k, v in translated.items()})


def read_attention(state):
    """The attention alone, as its authors store it."""
    parts = {}
    for name in ("query", "key", "value"):
        kernel = state[f"{name}_conv.weight"]
        parts[name] = {"kernel": kernel[..., 0, 0].T, "bias": state[f"{name}_conv.bias"]}
    return {**parts, "gamma": state["gamma"]}


def read_head(state):
    return {collection: parts["head"] for collection, parts in read(state).items()}


def decoder(state):
    return {k: v for k, v in state.items() if k.startswith(HEAD_KEYS)}


def shapes(module, x):
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, train=False))


def one_map(x, stride=8):
    return Features((x,), (stride,), (x.shape[-1],))


def test_attention_equals_recorded_one():
    golden = Golden("criss_cross_attention")
    params = {"params": read_attention(golden.state())}
    module = CrissCrossAttention()

    def twice(params, x):
        once = module.apply(params, x)
        out = module.apply(params, once)
        return jnp.sum(out * golden["in/gy"]), (once, out)

    run = jax.jit(jax.value_and_grad(twice, argnums=(0, 1), has_aux=True))
    (_, (once, out)), (grads, image_grad) = run(params, golden["in/x"])
    np.testing.assert_allclose(once, golden["out/R1"], atol=1e-5)
    np.testing.assert_allclose(out, golden["out/R2"], atol=1e-5)

    def close(ours, theirs):
        # A key bias cannot change a softmax: its recorded gradient is rounding noise.
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs) + 1e-5

    close(image_grad, golden["grad/x"])
    theirs = flat(read_attention(golden.group("grad/w/")))
    for name, gradient in flat(grads["params"]).items():
        close(gradient, theirs[name])
    assert not np.any(grads["params"]["key"]["bias"])


def test_post_head_equals_recorded_one():
    """Also the proof that the classifier may go before the enlargement."""
    golden = Golden("post_rcca_w64_33")
    head = RCCAHead(33, width=16, variant="post")
    run = jax.jit(lambda v, x: head.apply(v, one_map(x), train=False))
    logits = run(read_head(golden.state()), golden["in/a"])
    np.testing.assert_allclose(logits, golden["out_a/y"], atol=1e-5)


@pytest.mark.parametrize("name", ["mmseg_ccnet_r18w8", "mmseg_ccnet_r50w8"])
def test_mmseg_head_equals_recorded_one(name):
    golden = Golden(name)
    head = RCCAHead(7, width=32)
    variables = read_head(decoder(golden.state()))
    run = jax.jit(lambda v, x: head.apply(v, one_map(x), train=False))
    for case in "ab":
        logits = run(variables, golden[f"out_{case}/stage4"])
        np.testing.assert_allclose(logits, golden[f"out_{case}/logits"], atol=1e-5)


def plain_head(state, x, keys, slope, last_slope, magnitude):
    """The head in float64 from the source's own names: reduce, twice attention, mix, fuse."""
    state = {k: np.float64(v) for k, v in state.items()}

    def conv_norm(x, conv, norm, slope):
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.einsum("nhwcij,ocij->nhwo", windows, state[conv + ".weight"])
        x = x + state.get(conv + ".bias", 0.0)
        mean, var = (state[norm + k] for k in keys["statistics"])
        scale = state[norm + ".weight"]
        scale = np.abs(scale) if magnitude else scale
        x = (x - mean) / np.sqrt(var + 1e-5) * scale + state[norm + ".bias"]
        return np.where(x < 0, slope * x, x)

    def one(x, name):
        return x @ state[name + ".weight"][..., 0, 0].T + state[name + ".bias"]

    def attend(x):
        query, key, value = (one(x, "cca." + k) for k in keys["projections"])
        h, w = x.shape[1:3]
        energy = np.einsum("nhwd,ngvd->nhwgv", query, key)
        same_row = np.eye(h, dtype=bool)[:, None, :, None]
        same_column = np.eye(w, dtype=bool)[:, None, :]
        weights = np.where(same_row | same_column, np.exp(energy), 0.0)
        weights /= weights.sum((-2, -1), keepdims=True)
        return state["cca.gamma"] * np.einsum("nhwgv,ngvc->nhwc", weights, value) + x

    y = attend(attend(conv_norm(x, *keys["reduce"], slope)))
    y = conv_norm(y, *keys["mix"], slope)
    y = conv_norm(np.concatenate([x, y], -1), *keys["fuse"], last_slope)
    return one(y, keys["classifier"])


OFFICIAL = dict(
    statistics=(".running_mean", ".running_var"),
    projections=("query_conv", "key_conv", "value_conv"),
    reduce=("conva.0", "conva.1"),
    mix=("convb.0", "convb.1"),
    fuse=("bottleneck.0", "bottleneck.1"),
    classifier="bottleneck.3",
)
PADDLESEG = dict(
    statistics=("._mean", "._variance"),
    projections=("q_conv", "k_conv", "v_conv"),
    reduce=("conva._conv", "conva._batch_norm"),
    mix=("convb._conv", "convb._batch_norm"),
    fuse=("out.conv_bn_relu._conv", "out.conv_bn_relu._batch_norm"),
    classifier="out.conv",
)


@pytest.mark.parametrize(
    ("source", "variant", "plain"),
    [
        ("official_ccnet_r101_19", "official", (OFFICIAL, 0.01, 0.01, True)),
        ("paddleseg_ccnet_r101vd_19", "paddleseg", (PADDLESEG, 0.01, 0.0, False)),
    ],
)
def test_unrecorded_heads_equal_plain_ones(source, variant, plain):
    """Nothing was recorded from these two; their equations, with their keys at a small width."""
    rng = np.random.default_rng(0)
    small = {2560: 40, 2048: 24, 512: 16, 64: 2, 19: 5}
    state = {}
    for key, shape in KEYS[source]["keys"].items():
        if key.startswith("head."):
            shape = [small.get(side, side) for side in shape]
            value = rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5
            if key.endswith(("var", "variance")):
                value = np.abs(value) + 0.5
            state[key.removeprefix("head.")] = np.float32(value)
    assert (state[plain[0]["reduce"][1] + ".weight"] < 0).any()

    x = np.float32(rng.normal(size=(2, 5, 4, 24)))
    head = RCCAHead(5, width=16, variant=variant)
    logits = jax.jit(lambda v, x: head.apply(v, one_map(x), train=False))(read_head(state), x)
    np.testing.assert_allclose(logits, plain_head(state, x, *plain), atol=1e-5)


def head_shapes(head, channels, size=(4, 6)):
    return shapes(head, one_map(jnp.zeros((2, *size, channels))))


def network(size, fields, classes, variant="mmseg", aux=None):
    return Segmenter(
        ResNet(**(SIZES[size] | fields)), RCCAHead(classes, variant=variant), aux_head=aux
    )


# FACTS, sections 4, 5 and 8. The post's has an unused classifier, PaddleSeg's an auxiliary head
# of 4,729,875 parameters; both are of no use here.
@pytest.mark.parametrize(
    ("size", "fields", "variant", "classes", "with_aux", "expected"),
    [
        ("resnet50", MMSEG_FIELDS, "mmseg", 19, True, 49_826_055),
        ("resnet50", MMSEG_FIELDS, "mmseg", 150, False, 47_528_567),
        ("resnet101", MMSEG_FIELDS, "mmseg", 19, False, 66_453_492),
        ("resnet101", OFFICIAL_FIELDS, "official", 19, False, 66_558_036),
        ("resnet101", PADDLE_FIELDS, "paddleseg", 19, False, 71_183_879 - 4_729_875),
        ("resnet50", POST_FIELDS, "post", 33, False, 49_497_290 - 2_049_000),
    ],
)
def test_parameter_counts(size, fields, variant, classes, with_aux, expected):
    aux = FCNHead(classes, 256, convs=1, concat=False, stage=-2) if with_aux else None
    model = network(size, fields, classes, variant, aux)
    assert count(shapes(model, jnp.zeros((1, 64, 64, 3)))[1]["params"]) == expected


def test_recurrence_shares_weights_and_none_leaves_the_attention_out():
    sizes = [count(head_shapes(RCCAHead(7, 16, r), 24)[1]["params"]) for r in range(4)]
    attention = 2 * (16 * 2 + 2) + 16 * 16 + 16 + 1
    assert sizes[1:] == [sizes[0] + attention] * 3


def test_any_grid_and_dtype():
    head = RCCAHead(7, 16, dtype=jnp.bfloat16)
    for size in ((1, 5), (7, 1), (9, 13)):
        logits, variables = head_shapes(head, 24, size)
        assert logits.shape == (2, *size, 7) and logits.dtype == jnp.float32
        assert {x.dtype for x in flat(variables).values()} == {jnp.dtype("float32")}
    assert head_shapes(RCCAHead(7, 16, variant="post"), 24, (5, 3))[0].shape == (2, 40, 24, 7)


def small(fields, block, head, depths=(2, 2, 2, 2), **aux):
    backbone = ResNet(depths, block, width=8, **fields)
    aux = FCNHead(7, 8, convs=1, concat=False, stage=-2, **aux)
    return Segmenter(backbone, RCCAHead(7, width=32, **head), aux)


def test_network_equals_recorded_one():
    golden = Golden("mmseg_ccnet_r50w8")
    model = small(MMSEG_FIELDS, "bottleneck", {}, SIZES["resnet50"]["depths"])
    variables = read(golden.state())
    outputs = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, golden["in/b"])
    np.testing.assert_allclose(outputs["logits"], golden["out_b/logits"], atol=1e-4)
    np.testing.assert_allclose(outputs["aux"][0], golden["out_b/aux"], atol=1e-4)


def test_training_step_equals_recorded_one():
    golden = Golden("train_mmseg_ccnet_r18w8")
    model = small(MMSEG_FIELDS, "basic", dict(dropout=0.0), dropout=0.0)
    variables = read(golden.state())
    labels = jnp.asarray(golden["in/labels"], jnp.int32)

    def loss(params, images):
        outputs, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        maps = (outputs["logits"], *outputs["aux"])
        sums = [cross_entropy(resize_bilinear(x, labels.shape[1:]), labels) for x in maps]
        main, aux = (total / weight for total, weight in sums)
        return main + 0.4 * aux, (outputs["logits"], updates["batch_stats"])

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (logits, stats)), (grads, image_grad) = grad(variables["params"], golden["in/x"])
    np.testing.assert_allclose(value, golden["out/loss"], rtol=1e-5)
    np.testing.assert_allclose(logits, golden["out/logits"], atol=1e-4)

    def close(ours, theirs, name):
        assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs) + 1e-7, name

    close(image_grad, golden["grad/x"], "image")
    theirs = flat(translated(golden, "grad/w/")["params"])
    for name, gradient in flat(grads).items():
        close(gradient, theirs[name], name)
    after = flat(translated(golden, "buf_after/")["batch_stats"])
    for name, value in flat(stats).items():
        np.testing.assert_allclose(value, after[name], atol=1e-5)


def translated(golden, prefix):
    """Gradients or buffers in the source's layout, by our own rules."""
    return read({**golden.state(), **golden.group(prefix)})


def distinct(shape):
    size = int(np.prod(shape))
    return (np.arange(size, dtype=np.float32) / size).reshape(shape)


@pytest.mark.parametrize("source", KEYS)
def test_tables_cover_published_files_and_invert(source):
    entry = KEYS[source]
    state = {k: distinct(shape) for k, shape in entry["keys"].items()}
    layouts = recognise(state, LAYOUTS)
    result, unknown = translate(state, layouts)
    assert not unknown
    if "size" in entry:
        parts = {layout.part: layout.fields for layout in layouts}
        fields = parts["backbone"] or MMSEG_FIELDS
        variant = parts["head"]["variant"]
        aux = FCNHead(19, 256, convs=1, concat=False, stage=-2) if "aux_head" in parts else None
        model = network(entry["size"], fields, entry["classes"], variant, aux)
        expected = flat(shapes(model, jnp.zeros((1, 64, 64, 3)))[1])
        assert {k: v.shape for k, v in result.items()} == {k: x.shape for k, x in expected.items()}
    back, left = untranslate(result, layouts)
    assert not left
    unused = ("num_batches_tracked", "fc.weight", "fc.bias")
    kept = {k for k in state if not k.endswith(unused) and not k.startswith(("dsn.", "aux_head."))}
    assert set(back) == kept
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_fields_are_checked():
    with pytest.raises(UserError, match='variant "mmsge" is none of mmseg'):
        RCCAHead(7, variant="mmsge")
    with pytest.raises(UserError, match="recurrence must be 0 or more, got -1"):
        RCCAHead(7, recurrence=-1)
    with pytest.raises(UserError, match="4 channels cannot be reduced 8 times"):
        head_shapes(RCCAHead(7, width=4), 16)
