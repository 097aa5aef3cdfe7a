"""Our variables under published names: the very keys, shapes and numbers of the sources."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from safetensors import safe_open

import attnseg
from attnseg.core.tree import flat, nested
from attnseg.weights import ccnet, export
from attnseg.weights.read import read_state

HERE = Path(__file__).parent
SWIN = dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4))
MIT = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1), heads=(1, 2, 3, 4))
SMALL = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1))
W8 = dict(width=8, stem_width=8)
TIMM = dict(width=8, stem_width=64, depths=(2, 2, 2, 2))
COUNTER = ".num_batches_tracked"


def create(name, classes, **fields):
    return attnseg.create_model(name, classes, **fields)


shapes = functools.cache(export.variable_shapes)


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    monkeypatch.setattr(export, "variable_shapes", shapes)


def drawn(model):
    """Variables at random, without compiling the initialisers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.random(x.shape, np.float32) + 0.1, shapes(model))


def keys_of(source):
    """The model a published file belongs to, and its ``{key: shape}``."""
    table = {}
    for file in HERE.glob("*_keys.json"):
        table |= json.loads(file.read_text())
    if source in table["networks"]:
        keys = table["backbone"] | table["networks"][source]["keys"]
        return create(source.split("_")[1] + "_r50", 19), keys
    entry = table[source]
    if "model" not in entry:
        return create("ccnet_r50", 19), entry["keys"]
    classes = 150 if "150" in source else 1000
    return create(entry["model"], classes, head=entry.get("head")), entry["keys"]


OTHER_LAYOUT = {"mmseg_segnext_t_150": "mmsegmentation MSCAN"}


@pytest.mark.parametrize(
    "source",
    [
        "hf_hub_segformer_b0_150",
        "hf_hub_mit_b0_cls1000",
        "mmseg_segformer_b0_150",
        "timm_resnet18",
        "timm_resnet50",
        "timm_botnet26t_256",
        "timm_swin_tiny_patch4_window7_224",
        "official_conv2former_n",
        "mmseg_ccnet_r50_d8_19",
        "mmseg_upernet_r50_d8_19",
        "mmseg_segnext_t_150",
    ],
)
def test_keys_and_shapes_are_those_of_published_files(source):
    model, keys = keys_of(source)
    rng = np.random.default_rng(0)
    state = {k: rng.random(shape, np.float32) for k, shape in keys.items()}
    variables, report = attnseg.load_weights(model, state)
    assert not report.skipped and not report.unused
    written = attnseg.export_torch(report.model, variables, layout=OTHER_LAYOUT.get(source))
    assert {k: list(v.shape) for k, v in written.items()} == keys
    for key, value in written.items():
        if key.endswith(COUNTER):
            assert value.dtype == np.int64 and value == 0
        else:
            np.testing.assert_array_equal(value, state[key])
        # What torch.from_numpy asks for.
        assert value.flags.c_contiguous and value.flags.writeable


def on_resnet18(head, **fields):
    return create(f"resnet18c_d8+{head}", 7, backbone=W8, head=fields)


RECORDED = {
    "hf_segformer_tiny": lambda: create(
        "segformer_b0", 7, backbone=dict(MIT, ratios=(4, 4, 3, 2)), head=dict(width=20)
    ),
    "nvlabs_segformer_tiny": lambda: create("segformer_b0", 7, backbone=MIT, head=dict(width=20)),
    "mmseg_segformer_tiny": lambda: create(
        "segformer_b0", 7, backbone=MIT, head=dict(width=20, stage_norm=True)
    ),
    "mmseg_segnext_tiny": lambda: create(
        "segnext_t", 7, backbone=SMALL, head=dict(width=32, rank=5, groups=8)
    ),
    "official_mscan_tiny_epsprobe": lambda: create("mscan_t", 7, backbone=SMALL),
    "post_mscan_tiny": lambda: create("mscan_t+fcn", 7, backbone=SMALL),
    "mmseg_ccnet_r18w8": lambda: create(
        "resnet18c_d8+rcca", 7, backbone=W8, head=dict(width=32), aux_head=dict(width=8)
    ),
    "mmseg_ccnet_r50w8": lambda: create(
        "ccnet_r50", 7, backbone=W8, head=dict(width=32), aux_head=dict(width=8)
    ),
    "mmseg_aspp_r18w8": lambda: on_resnet18("aspp", width=16, separable=False, low_width=0),
    "mmseg_sepaspp_r18w8": lambda: on_resnet18("aspp", width=16, low_width=6),
    "mmseg_da_r18w8": lambda: on_resnet18("danet", width=16, position_width=8),
    "mmseg_ema_r18w8": lambda: on_resnet18("emanet", width=8, ema_width=16, bases=6),
    "mmseg_fcn_r18w8": lambda: on_resnet18("fcn", width=16),
    "mmseg_nl_r18w8": lambda: on_resnet18("nonlocal", width=16),
    "mmseg_psp_r18w8": lambda: on_resnet18("psp", width=16),
    "mmseg_resnet18_d32_w8": lambda: create("resnet18", 7, backbone=W8),
    "mmseg_resnet50v1c_d8_w8": lambda: create("resnet50c_d8", 7, backbone=W8),
    "mmseg_resnet50v1d_d32_w8": lambda: create(
        "resnet50c", 7, backbone=dict(W8, pooled_shortcut=True)
    ),
    "timm_resnet18_w8": lambda: create("resnet18", 11, backbone=TIMM),
    "timm_resnet50_w8": lambda: create("resnet50", 11, backbone=TIMM),
    "botnet50style_timm_w8": lambda: create(
        "botnet50", 11, backbone=dict(depths=(2, 2, 2, 3), width=8, stem_width=64)
    ),
    "timm_swin_tiny_custom": lambda: create(
        "swin_t",
        11,
        backbone=dict(
            widths=(12, 24, 48, 96),
            depths=(2, 2, 2, 2),
            heads=(1, 2, 3, 4),
            windows=((4, 6), (4, 6), (4, 6), (2, 3)),
        ),
    ),
    "conv2former_tiny_k11": lambda: create(
        "conv2former_n", 11, backbone=dict(SMALL, kernel=11), head=dict(width=1280)
    ),
    "post_conv2former_tiny": lambda: create(
        "conv2former_n_cifar", 10, backbone=dict(widths=(8, 16, 32, 64), depths=(1, 2, 2, 1))
    ),
}
# Files without a head.
ENCODERS = (
    "official_mscan_tiny_epsprobe",
    "post_mscan_tiny",
    "mmseg_resnet18_d32_w8",
    "mmseg_resnet50v1c_d8_w8",
    "mmseg_resnet50v1d_d32_w8",
)
# Where the first layout is another source's.
ASKED = {
    "mmseg_segnext_tiny": "mmsegmentation MSCAN",
    "post_mscan_tiny": "MSCAN of the SegNeXt post",
}


@pytest.mark.parametrize("name", RECORDED)
def test_there_and_back_again(name):
    state, model = Golden(name).state(), RECORDED[name]()
    spare = drawn(model) if name in ENCODERS else None
    variables, report = attnseg.load_weights(model, state, variables=spare)
    assert not report.unused and all(k.split("/")[1] == "head" for k in report.skipped)
    written = attnseg.export_torch(report.model, variables, layout=ASKED.get(name))
    again, second = attnseg.load_weights(model, written)
    assert not second.skipped and not second.unused
    assert flat(again).keys() == flat(variables).keys()
    again = flat(again)
    for key, value in flat(variables).items():
        np.testing.assert_array_equal(again[key], value, key)
    # The file itself comes out, but for what the source has and does not use.
    found = {k if k in written else f"backbone.{k}": v for k, v in state.items()}
    for key, value in found.items():
        if not key.endswith(COUNTER) and ".conv_seg." not in key.replace("auxiliary", ""):
            np.testing.assert_array_equal(written[key], value, key)


def prefixes(state):
    return {key.split(".")[0] for key in state}


def tiny(**fields):
    backbone = dict(MIT, **fields)
    return create("segformer_b0", 7, backbone=backbone, head=dict(width=20))


def test_epsilons_decide_the_layout():
    state = Golden("nvlabs_segformer_tiny").state()
    variables, report = attnseg.load_weights(tiny(), state)
    bare = {k: v for k, v in variables.items() if k != "constants"}
    # Either the model or what was loaded brings them.
    for model, given in ((tiny(), variables), (report.model, bare), (report.model, variables)):
        written = attnseg.export_torch(model, given)
        assert prefixes(written) == {"backbone", "decode_head"}
        assert "backbone.block1.0.attn.kv.weight" in written
        assert "decode_head.linear_fuse.bn.weight" in written
        with pytest.raises(
            attnseg.UserError, match=r"Hugging Face MiT: LayerNorm epsilon 1e-05, the"
        ):
            attnseg.export_torch(model, given, layout="Hugging Face MiT")
    assert prefixes(attnseg.export_torch(tiny(), bare)) == {"segformer", "decode_head"}
    with pytest.raises(attnseg.UserError, match=r"NVlabs MiT: LayerNorm epsilon 1e-06, the model"):
        attnseg.export_torch(tiny(), bare, layout="NVlabs MiT")
    written = attnseg.export_torch(report.model, bare, layout="PaddleSeg MiT")
    kernel = variables["params"]["backbone"]["stage1_block1"]["ffn"]["expand"]["kernel"]
    np.testing.assert_array_equal(written["backbone.block1.0.mlp.fc1.weight"], kernel)
    assert "linear_fuse._batch_norm._mean" in written


def test_epsilons_of_no_layout_are_refused():
    odd = nested({"constants/backbone/stage1_norm/epsilon": jnp.float32(1e-3)})
    for layout in (None, "mmseg MiT"):
        with pytest.raises(attnseg.UserError, match=r"no published format fits the backbone"):
            attnseg.export_torch(tiny(), drawn(tiny()) | odd, layout=layout)
    model = create("swin_t", 3)
    odd = nested({"constants/backbone/stage4_norm/epsilon": jnp.float32(1e-3)})
    with pytest.raises(attnseg.UserError, match="no place for the epsilon of backbone/stage4_norm"):
        attnseg.export_torch(model, drawn(model) | odd)


def test_fields_a_layout_implies_are_those_of_the_model():
    def post(**fields):
        head = dict(width=16, variant="post")
        return create("resnet18+rcca", 3, backbone=dict(W8, **fields), head=head)

    model = post(dilation="post")
    written = attnseg.export_torch(model, drawn(model))
    assert "backbone.conv1.weight" in written and "decode_head.CCA.gamma" in written
    name = "ResNet of the CCNet post"
    with pytest.raises(attnseg.UserError, match=f"{name}: it means dilation='post', the model has"):
        attnseg.export_torch(post(), drawn(model), layout=name)


def official():
    """CCNet of its authors, thin."""
    fields = dict(ccnet.OFFICIAL_ENCODER.fields, width=8)
    return create("resnet18c+rcca", 3, backbone=fields, head=dict(width=16, variant="official"))


def test_what_a_source_cannot_hold_is_refused():
    """InPlaceABN scales by a magnitude; images there are BGR without deviations."""
    model = official()
    values = flat(drawn(model))
    written = attnseg.export_torch(model, nested(values))
    assert {"conv1", "layer1", "head"} < prefixes(written)
    assert all(value.flags.c_contiguous for value in written.values())
    again, report = attnseg.load_weights(model, written)
    assert not report.skipped
    again = flat(again)
    for key, value in values.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-6)
    scale = "params/backbone/stage1_block1/norm1/scale"
    values[scale] = -values[scale]
    with pytest.raises(attnseg.UserError, match=f"{scale} without changing its numbers"):
        attnseg.export_torch(model, nested(values))


@pytest.mark.parametrize(
    ("name", "fields", "encoder", "head"),
    [
        ("mit_b0+upernet", MIT, "segformer.encoder.layer_norm.0.bias", "fpn_convs.0.bn.bias"),
        ("mscan_t+segformer", SMALL, "backbone.norm1.bias", "linear_c.0.proj.weight"),
        ("resnet18+psp", W8, "backbone.conv1.weight", "psp_modules.0.1.bn.weight"),
        ("swin_t+upernet", SWIN, "backbone.stages.0.downsample.norm.bias", "fpn_convs.0.bn.bias"),
    ],
)
def test_parts_of_different_sources(name, fields, encoder, head):
    model = create(name, 3, backbone=fields, head={"width": 16})
    values = drawn(model)
    written = attnseg.export_torch(model, values)
    assert encoder in written and f"decode_head.{head}" in written
    again, report = attnseg.load_weights(model, written)
    assert not report.skipped and not report.unused
    values = flat(values)
    for key, value in flat(again).items():
        np.testing.assert_array_equal(value, values[key], key)


def test_what_has_no_place_is_named():
    fields = dict(SMALL, norms="all")
    model = create("conv2former_n", 3, backbone=fields, head=dict(width=16))
    with pytest.raises(attnseg.UserError) as error:
        attnseg.export_torch(model, drawn(model))
    assert "no published format has a place for params/backbone/stage1_norm/bias" in str(
        error.value
    )
    assert "those of a backbone: Hugging Face MiT, " in str(error.value)
    assert "official Conv2Former" in str(error.value)
    with pytest.raises(attnseg.UserError, match="stage1_down|stem"):
        attnseg.export_torch(model, drawn(model), layout="timm Swin")
    with pytest.raises(attnseg.UserError, match='unknown layout "timm Swim". Did you mean "timm S'):
        attnseg.export_torch(model, drawn(model), layout="timm Swim")


def test_variables_of_another_model_are_refused():
    model = create("resnet18c_d8+fcn", 3, backbone=W8, head=dict(width=16))
    values = drawn(model)
    for given, message in (
        ({"params": values["params"]}, "they lack batch_stats/backbone/stage1_block1/norm1/mean"),
        (values["params"], "they lack batch_stats/backbone"),
        (drawn(tiny()), "they lack batch_stats/backbone"),
    ):
        with pytest.raises(attnseg.UserError, match=f"of another model: {message}"):
            attnseg.export_torch(model, given)
    deeper = create("resnet34c_d8+fcn", 3, backbone=W8, head=dict(width=16))
    with pytest.raises(attnseg.UserError, match="they have batch_stats/backbone/stage1_block3"):
        attnseg.export_torch(model, drawn(deeper))
    # A head that only training needs may stay behind.
    trained = create("resnet18c_d8+fcn", 3, backbone=W8, head=dict(width=16), aux_head=True)
    assert "auxiliary_head" in prefixes(attnseg.export_torch(trained, drawn(trained)))
    assert "auxiliary_head" not in prefixes(attnseg.export_torch(model, drawn(trained)))


def test_files(tmp_path):
    values = drawn(tiny())
    state = attnseg.export_torch(tiny(), values)
    for path in (tmp_path / "w.safetensors", tmp_path / "w.npz"):
        attnseg.export_torch(tiny(), values, path)
        written = read_state(path)
        assert written.keys() == state.keys()
        assert all(np.array_equal(written[k], state[k]) for k in state)
        assert written["decode_head.batch_norm.num_batches_tracked"].dtype == np.int64
        before = path.read_bytes()
        with pytest.raises(attnseg.UserError, match="exists and is not overwritten"):
            attnseg.export_torch(tiny(), values, path)
        assert path.read_bytes() == before
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(attnseg.UserError, match=r"unknown suffix; written: \.safetensors, \.npz"):
        attnseg.export_torch(tiny(), values, tmp_path / "w.pth")
    with pytest.raises(attnseg.UserError, match="there is no folder"):
        attnseg.export_torch(tiny(), values, tmp_path / "absent" / "w.npz")
