"""ResNet against recorded outputs of timm and mmsegmentation."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

import attnseg
from attnseg.core.tree import flat
from attnseg.weights import resnet
from attnseg.weights.rules import recognise, translate, untranslate

W8 = dict(width=8)
TIMM = dict(width=8, stem_width=64, depths=(2, 2, 2, 2))
RECORDED = {
    "timm_resnet18_w8": ("resnet18", TIMM),
    "timm_resnet50_w8": ("resnet50", TIMM),
    "mmseg_resnet18_d32_w8": ("resnet18", W8),
    "mmseg_resnet18v1c_d8_w8": ("resnet18c_d8", W8),
    "mmseg_resnet50v1c_d8_w8": ("resnet50c_d8", W8),
    "mmseg_resnet50v1c_d8_w8_nocontract": ("resnet50c_d8", dict(W8, dilation="os8_constant")),
    "mmseg_resnet50v1d_d32_w8": ("resnet50c", dict(W8, pooled_shortcut=True)),
}


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_equal_recorded_ones(name):
    golden = Golden(name)
    backbone, fields = RECORDED[name]
    model = attnseg.create_model(f"{backbone}+linear", 11, backbone=fields)
    variables, report = attnseg.load_weights(model, golden.state())
    assert not report.unused
    assert all(k.startswith("params/head/") for k in report.skipped)

    @jax.jit
    def outputs(variables, images):
        def both(module, images):
            return module.backbone(images, train=False), module(images, train=False)["logits"]

        return model.apply(variables, images, method=both)

    for case in "ab":
        features, logits = outputs(variables, golden[f"in/{case}"])
        for i, ours in enumerate(features.maps, start=1):
            np.testing.assert_allclose(ours, golden[f"out_{case}/stage{i}"], atol=1e-4)
        assert features.widths == tuple(x.shape[-1] for x in features.maps)
        if f"out_{case}/logits" in golden.file:
            np.testing.assert_allclose(logits, golden[f"out_{case}/logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("dilation", "strides"),
    [
        ("os32", (4, 8, 16, 32)),
        ("s1", (4, 8, 16, 16)),
        ("os16", (4, 8, 16, 16)),
        ("os8", (4, 8, 8, 8)),
        ("os8_constant", (4, 8, 8, 8)),
        ("post", (4, 4, 8, 8)),
    ],
)
def test_strides_are_those_of_the_maps(dilation, strides):
    model = attnseg.create_model(
        "resnet18+linear", 2, backbone=dict(width=4, dilation=dilation, depths=(1, 1, 1, 1))
    )
    image = jnp.zeros((1, 64, 96, 3))

    def maps():
        variables = model.init(jax.random.key(0), image, train=False)
        return model.apply(variables, image, method=lambda m, x: m.backbone(x, train=False))

    features = jax.eval_shape(maps)
    assert features.strides == strides
    grids = [(64 // s, 96 // s) for s in strides]
    assert [x.shape[1:3] for x in features.maps] == grids


def test_basic_blocks_dilate_the_second_convolution_only_where_asked():
    # timm dilates both. An impulse then reaches further.
    def reach(dilate_both):
        fields = dict(width=4, depths=(1, 1, 1, 2), dilation="os8", zero_init=False)
        model = attnseg.create_model(
            "resnet18+linear", 2, backbone=dict(fields, dilate_both=dilate_both)
        )
        image = jnp.ones((1, 128, 256, 3))

        @jax.jit
        def difference(image, bumped):
            variables = model.init(jax.random.key(0), image, train=False)
            maps = [
                model.apply(variables, x, method=lambda m, x: m.backbone(x, train=False)).maps[-1]
                for x in (image, bumped)
            ]
            return jnp.any(maps[0] != maps[1], axis=(0, 1, 3)).sum()

        return int(difference(image, image.at[0, 64, 128].set(9.0)))

    assert reach(True) > reach(False)


def test_rounding_the_stem_up_adds_a_row():
    for ceil, side in ((False, 16), (True, 17)):
        fields = dict(width=4, depths=(1, 1, 1, 1), stem="deep", stem_ceil=ceil)
        model = attnseg.create_model("resnet18+linear", 2, backbone=fields)

        def maps(model=model):
            image = jnp.zeros((1, 64, 64, 3))
            variables = model.init(jax.random.key(0), image, train=False)
            return model.apply(variables, image, method=lambda m, x: m.backbone(x, train=False))

        assert jax.eval_shape(maps).maps[0].shape[1] == side


def test_unknown_fields_are_refused():
    for field, value in (("dilation", "os4"), ("block", "wide"), ("stem", "patch")):
        with pytest.raises(attnseg.UserError, match=value):
            attnseg.create_model("resnet50", 2, backbone={field: value})
    with pytest.raises(attnseg.UserError, match="one value per stage"):
        attnseg.create_model("resnet50", 2, backbone=dict(depths=(1, 1)))


KEYS = json.loads((Path(__file__).parents[1] / "weights" / "resnet_keys.json").read_text())


@pytest.mark.parametrize("source", KEYS)
def test_published_keys_are_loaded_and_written_back(source):
    entry = KEYS[source]
    rng = np.random.default_rng(0)
    state = {k: rng.random(shape, np.float32) for k, shape in entry["keys"].items()}
    model = attnseg.create_model(entry["model"], 1000)
    variables, report = attnseg.load_weights(model, state)
    assert not report.skipped and not report.unused
    layouts = recognise(state, resnet.LAYOUTS)
    written, rest = untranslate(translate(state, layouts)[0], layouts)
    assert not rest
    assert {k.removeprefix("backbone.") for k in written} == {
        k for k in state if not k.endswith("num_batches_tracked")
    }
    assert all(np.array_equal(state[k.removeprefix("backbone.")], v) for k, v in written.items())
    assert len(flat(variables)) == len(written)
