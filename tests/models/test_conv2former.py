"""Conv2Former against recorded outputs of its authors' code and of the post's Paddle code."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from gradients import gradient_by_seed

from attnseg.core.errors import UserError
from attnseg.core.tree import count, flat, map_with_names, nested
from attnseg.layers.conv_modulation import ConvModulation
from attnseg.models.assembled import Classifier
from attnseg.models.backbones.conv2former import SIZES, Conv2Former
from attnseg.models.heads.conv2former import Conv2FormerHead
from attnseg.models.heads.linear import LinearHead
from attnseg.weights.conv2former import LAYOUTS
from attnseg.weights.rules import recognise, translate, untranslate

KEYS = json.loads((Path(__file__).parents[1] / "weights/conv2former_keys.json").read_text())
TINY = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1))
POST = dict(SIZES["conv2former_n_cifar"], widths=(8, 16, 32, 64), depths=(1, 2, 2, 1))
SMALL = dict(widths=(8, 8), depths=(1, 1), kernel=3, ratio=2, layer_scale=1.0)

# FACTS, section 3: parameters at 1000 and at 10 classes.


def classifier(classes, fields, dtype=None):
    backbone = Conv2Former(**fields, dtype=dtype)
    head = LinearHead if backbone.stem == "cifar" else Conv2FormerHead
    return Classifier(backbone, head(classes, dtype=dtype))


def initial(model, size=(32, 32)):
    return model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)


def shapes(model, size=(32, 32)):
    return jax.eval_shape(lambda: initial(model, size))


def drawn(model):
    """Random variables, without compiling the initialisers."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return np.abs(values) + 0.5 if name.endswith(("/var", "/scale")) else 0.3 * values

    return map_with_names(draw, shapes(model))


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, variables, images):
    """Maps of the backbone and logits; compiled once for equal models and shapes."""

    def both(module, images):
        features = module.backbone(images, train=False)
        return features.maps, module.head(features, train=False)

    return model.apply(variables, images, method=both)


def load(state):
    values, unknown = translate(state, recognise(state, LAYOUTS))
    assert not unknown
    return nested(values)


@pytest.mark.parametrize(
    ("name", "changes", "classes", "expected"),
    [
        ("conv2former_n", dict(kernel=11), 1000, 15_241_672),
        ("conv2former_b", dict(kernel=7), 1000, 88_784_952),
        ("conv2former_b", dict(kernel=7), 10, 87_516_762),
        ("conv2former_n_cifar", {}, 10, 8_847_498),
        ("conv2former_n_cifar", dict(ratio=4), 10, 13_281_674),
    ],
)
def test_parameter_counts_of_variants(name, changes, classes, expected):
    model = classifier(classes, {**SIZES[name], **changes})
    assert count(shapes(model)["params"]) == expected


@pytest.mark.parametrize(
    ("name", "classes", "fields", "record"),
    [
        ("conv2former_tiny_k11", 11, TINY, "out_{}/stage{}"),
        ("conv2former_tiny_k11_epsprobe", 11, TINY, "out_{}/stage{}"),
        ("post_conv2former_tiny", 10, dict(POST, norms="none"), "out/blocks{1}"),
        ("post_conv2former_tiny", 10, POST, ""),
    ],
)
def test_outputs_equal_recorded_ones(name, classes, fields, record):
    golden = Golden(name)
    variables = load(golden.state())
    model = classifier(classes, fields)
    for case in "ab":
        if f"in/{case}" not in golden.file:
            continue
        maps, logits = outputs(model, variables, golden[f"in/{case}"])
        for stage, ours in enumerate(maps if record else (), start=1):
            theirs = golden[record.format(case, stage)]
            # The probe's maps are small, so that a wrong epsilon shows: compare relatively.
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
        theirs = f"out_{case}/logits" if record.startswith("out_") else "out/logits"
        if fields.get("norms") != "none":
            np.testing.assert_allclose(logits, golden[theirs], atol=1e-5)


@pytest.mark.parametrize("source", KEYS)
def test_published_keys_are_translated_both_ways(source):
    keys = KEYS[source]["keys"]
    rng = np.random.default_rng(0)
    state = {k: rng.standard_normal(shape, dtype=np.float32) for k, shape in keys.items()}
    found = recognise(state, LAYOUTS)
    assert len(found) == 2
    values, unknown = translate(state, found)
    assert not unknown
    classes = 10 if "cifar" in source else 1000
    expected = flat(shapes(classifier(classes, SIZES[KEYS[source]["model"]])))
    assert {k: v.shape for k, v in values.items()} == {k: v.shape for k, v in expected.items()}
    again, left = untranslate(values, found)
    assert not left
    assert {k for k in state if k not in again} == {
        k for k in state if k.endswith("num_batches_tracked")
    }
    assert all(np.array_equal(again[k], state[k]) for k in again)


def test_formats_are_told_apart():
    states = {name: dict.fromkeys(entry["keys"], 0) for name, entry in KEYS.items()}
    names = {s: [layout.name for layout in recognise(k, LAYOUTS)] for s, k in states.items()}
    assert names["official_conv2former_n"][0] == "official Conv2Former"
    assert names["post_conv2former_n_cifar10_paddle"][0].endswith("Paddle")
    encoder = {k: v for k, v in states["official_conv2former_n"].items() if "head" not in k}
    encoder = {k: v for k, v in encoder.items() if "pred" not in k}
    assert [layout.part for layout in recognise(encoder, LAYOUTS)] == ["backbone"]


@pytest.mark.parametrize("fusion", ["hadamard", "sum"])
def test_modulation_of_one_pixel(fusion):
    """A grid of one pixel meets the middle of the kernel only."""
    x = jax.random.normal(jax.random.key(1), (1, 1, 1, 6))
    module = ConvModulation(5, fusion)
    params = module.init(jax.random.key(0), x)["params"]
    params = jax.tree_util.tree_map(lambda p: p + 0.3, params)
    p = {k: np.asarray(v, np.float64) for k, v in flat(params).items()}
    v = np.asarray(x, np.float64)[0, 0, 0]
    a = v @ p["context/kernel"] + p["context/bias"]
    a = np.array([t * 0.5 * (1 + math.erf(t / 2**0.5)) for t in a])
    a = a * p["depthwise/kernel"][2, 2, 0] + p["depthwise/bias"]
    v = v @ p["value/kernel"] + p["value/bias"]
    expected = (a * v if fusion == "hadamard" else a + v) @ p["out/kernel"] + p["out/bias"]
    ours = jax.jit(module.apply)({"params": params}, x)[0, 0, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_rectangles_odd_sizes_and_strides():
    four = dict(SMALL, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1))

    def grids(fields, size):
        backbone = Conv2Former(**four, **fields)
        features = jax.eval_shape(
            lambda: backbone.init_with_output(
                jax.random.key(0), jnp.zeros((1, *size, 3)), train=False
            )[0]
        )
        assert features.widths == (8, 8, 8, 8)
        return features.strides, [x.shape[1:3] for x in features.maps]

    assert grids({}, (65, 97)) == ((4, 8, 16, 32), [(16, 24), (8, 12), (4, 6), (2, 3)])
    assert grids({}, (63, 256)) == ((4, 8, 16, 32), [(16, 64), (8, 32), (4, 16), (2, 8)])
    cifar = dict(stem="cifar")
    assert grids(cifar, (32, 9)) == ((1, 2, 4, 8), [(32, 9), (16, 4), (8, 2), (4, 1)])
    with pytest.raises(UserError, match="too small: 31x64"):
        grids({}, (31, 64))


def test_norms_on_the_maps():
    def norms(which):
        names = flat(shapes(Conv2Former(**SMALL, norms=which)))
        return sorted({n.split("/")[1] for n in names if "_norm/" in n})

    assert norms("none") == []
    assert norms("last") == ["stage2_norm"]
    assert norms("all") == ["stage1_norm", "stage2_norm"]


def test_initial_values():
    fields = dict(SMALL, widths=(32, 32), layer_scale=1e-6)
    values = flat(jax.jit(lambda: initial(Conv2Former(**fields)))()["params"])
    scales = [x for name, x in values.items() if name.endswith(("/scale1", "/scale2"))]
    assert len(scales) == 4 and all(np.all(x == np.float32(1e-6)) for x in scales)
    for name, value in values.items():
        if name.endswith("kernel"):
            assert 0.015 < np.std(value) < 0.025, name
    without = flat(shapes(Conv2Former(**dict(SMALL, layer_scale=0.0))))
    assert not any(name.endswith(("/scale1", "/scale2")) for name in without)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    images = jax.random.normal(jax.random.key(1), (2, 32, 40, 3))
    full, half = (classifier(5, SMALL, dtype) for dtype in (None, jnp.bfloat16))
    assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(shapes(half)))
    variables = drawn(full)
    (_, expected), (maps, logits) = (outputs(m, variables, images) for m in (full, half))
    assert logits.dtype == jnp.float32 and maps[-1].dtype == jnp.bfloat16
    error = np.abs(logits - expected)
    assert 0 < error.mean() < 0.02 * np.std(expected)


def test_drop_path_and_remat():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    fields = dict(SMALL, stem="cifar", drop_path=0.5)
    plain, remat = (classifier(3, dict(fields, remat=r)) for r in (False, True))
    variables = drawn(plain)

    run = gradient_by_seed(plain, variables, images)
    remade = gradient_by_seed(remat, variables, images)
    first, other, again = (flat(g) for g in (run(0), run(1), remade(0)))
    for name in first:
        scale = np.abs(first[name]).max()
        np.testing.assert_allclose(first[name], again[name], atol=1e-4 * scale + 1e-7)
    assert any(np.abs(first[n] - other[n]).max() > 1e-2 * np.abs(first[n]).max() for n in first)
    # Evaluation asks for no random numbers and repeats itself.
    one, two = (outputs(plain, variables, images)[1] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_bad_fields_are_refused():
    for changes, message in (
        (dict(depths=(1,)), "one value per stage"),
        (dict(kernel=4), "must be odd"),
        (dict(widths=(7, 8)), "stem halves it"),
        (dict(stem="tiny"), 'stem "tiny" is none of'),
        (dict(fusion="max"), 'fusion "max" is none of'),
        (dict(norms="first"), 'norms "first" is none of'),
    ):
        with pytest.raises(UserError, match=message):
            Conv2Former(**{**SMALL, **changes})
