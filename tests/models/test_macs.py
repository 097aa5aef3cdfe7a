"""Multiply-accumulates against the counts measured on the published PyTorch networks."""

import functools

import jax
import jax.numpy as jnp
import pytest

import attnseg
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.layers.nonlocal_attention import NonLocal2d
from attnseg.models.macs import count_macs, trace_macs

MMSEG = dict(head=dict(width=256, stage_norm=True))
RANK16 = dict(head=dict(rank=16))
ADE, CITY, IMAGENET = (512, 512), (1024, 2048), (224, 224)

# Published numbers in G as printed: every digit has to come out.
# A total is a sum over parts, so that not every pair of backbone, head and size is needed.
SEGFORMER = ("8.388", "15.878", "62.338", "78.963", "95.567", "111.51")  # 150 classes at 512x512
SEGFORMER_MMSEG = {0: "8.388", 2: "25.680", 3: "42.305"}
SEGFORMER_CITY = [(0, {}, "120.96"), (1, {}, "239.13"), (2, MMSEG, "419.01")]  # 19, 1024x2048
MIT = {0: "0.452", 1: "1.676", 2: "3.271", 5: "11.717"}  # classifiers at 224x224
SEGNEXT = {"t": "6.404", "s": "15.646", "b": "32.686", "l": "65.968"}  # 150 classes at 512x512
SEGNEXT_CITY = {"t": "50.13", "s": "124.06"}
MSCAN = [  # without a classifier
    ("t", ADE, "4.637"),
    ("t", IMAGENET, "0.887"),
    ("s", IMAGENET, "2.560"),
    ("b", IMAGENET, "5.082"),
    ("l", IMAGENET, "9.047"),
]
CLASSIFIERS = [
    ("conv2former_n", IMAGENET, {}, "2.330"),
    ("conv2former_n", IMAGENET, dict(kernel=11), "2.406"),
    ("conv2former_t", IMAGENET, {}, "4.361"),
    ("conv2former_s", IMAGENET, {}, "8.708"),
    ("conv2former_b", IMAGENET, {}, "15.89"),
    ("conv2former_b", IMAGENET, dict(kernel=7), "15.565"),
    ("conv2former_l", IMAGENET, {}, "36.04"),
    ("resnet18", IMAGENET, {}, "1.814"),
    ("resnet34", IMAGENET, {}, "3.664"),
    ("resnet50", IMAGENET, {}, "4.089"),
    ("resnet101", IMAGENET, {}, "7.801"),
    ("resnet152", IMAGENET, {}, "11.514"),
    ("resnet50", (1024, 1024), {}, "85.415"),
    ("botnet50", IMAGENET, {}, "4.025"),
    ("botnet101", IMAGENET, {}, "7.737"),
    ("botnet152", IMAGENET, {}, "11.449"),
    ("botnet_s1_50", IMAGENET, {}, "5.418"),
    ("botnet50", (1024, 1024), {}, "102.991"),
    ("botnet26t", (256, 256), {}, "3.297"),
    ("swin_t", IMAGENET, {}, "4.491"),
]
ON_RESNET50 = {  # 19 classes at 512x512
    "pspnet": "178.3",
    "deeplabv3plus": "176.2",
    "danet": "210.8",
    "emanet": "169.3",
    "nonlocal": "208.3",
    "ccnet": "200.9",
    "upernet": "236.8",
    "fcn": "197.6",
}
ON_RESNET101 = {"danet": "288.4", "ccnet": "278.5", "upernet": "256.2"}
TABLE = [
    *((f"segformer_b{i}", 150, ADE, {}, want) for i, want in enumerate(SEGFORMER)),
    *((f"segformer_b{i}", 150, ADE, MMSEG, want) for i, want in SEGFORMER_MMSEG.items()),
    *((f"mit_b{i}", 1000, IMAGENET, {}, want) for i, want in MIT.items()),
    *((f"segformer_b{i}", 19, CITY, fields, want) for i, fields, want in SEGFORMER_CITY),
    *((f"segnext_{size}", 150, ADE, RANK16, want) for size, want in SEGNEXT.items()),
    *((f"segnext_{size}", 19, CITY, RANK16, want) for size, want in SEGNEXT_CITY.items()),
    *((name, 1000, size, dict(backbone=b), want) for name, size, b, want in CLASSIFIERS),
    *((f"{name}_r50", 19, ADE, {}, want) for name, want in ON_RESNET50.items()),
    *((f"{name}_r101", 19, ADE, {}, want) for name, want in ON_RESNET101.items()),
    ("ccnet_r50", 19, (769, 769), {}, "462.0"),
    ("ccnet_r50", 19, (512, 1024), {}, "402.4"),
    ("upernet_swin_t", 150, ADE, {}, "236.9"),
]


def printed(macs, like):
    """G with as many digits as `like` has."""
    return f"{macs / 1e9:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize(("name", "classes", "size", "fields", "want"), TABLE)
def test_totals_are_the_published_ones(name, classes, size, fields, want):
    """Without the auxiliary head, which the published counts leave out."""
    parts = count_macs(attnseg.create_model(name, classes, **fields), size)
    assert set(parts) - {"aux_head"} == {"backbone", "head"}
    assert printed(sum(parts.values()) - parts.get("aux_head", 0), want) == want


@pytest.mark.parametrize(("size", "image", "want"), MSCAN)
def test_mscan_alone(size, image, want):
    parts = count_macs(attnseg.create_model(f"mscan_{size}", 1000), image)
    assert printed(parts["backbone"], want) == want


def attention(module, **options):
    """Products of an attention module on CCNet's map, 512x97x97, in all."""
    x = jax.ShapeDtypeStruct((1, 97, 97, 512), jnp.float32)
    return sum(trace_macs(module, x, **options).values())


def test_attention_alone():
    once = attention(CrissCrossAttention())
    assert printed(once, "4.13") == "4.13" and printed(2 * once, "8.27") == "8.27"
    non_local = functools.partial(attention, train=False)
    assert printed(non_local(NonLocal2d(2)), "50.26") == "50.26"
    assert printed(non_local(NonLocal2d(8)), "12.57") == "12.57"
    # The map of all pairs is counted, though "dot_product" is computed without it.
    assert non_local(NonLocal2d(2, mode="dot_product")) == non_local(NonLocal2d(2))
    pixels = 97 * 97  # "gaussian": logits of 512 channels, no matrices of queries and keys
    more = pixels**2 * 256 - 2 * pixels * 512 * 256
    assert non_local(NonLocal2d(2, mode="gaussian")) == non_local(NonLocal2d(2)) + more


def test_the_posts_classifier_counts_on_the_enlarged_map():
    def head(variant):
        small = dict(depths=(1, 1, 1, 1), width=8)
        model = attnseg.create_model(
            "ccnet_r50", 5, backbone=small, head=dict(width=16, variant=variant)
        )
        return count_macs(model, (64, 64))["head"]

    assert head("post") - head("mmseg") == (64**2 - 8**2) * 16 * 5


def test_bot_positions():
    """leaderj1001 and lucidrains multiply each query with the vector of each place."""

    def backbone(position):
        fields = dict(depths=(1, 1, 1, 1), width=8, position=position)
        return count_macs(attnseg.create_model("botnet50", 5, backbone=fields), (128, 96))[
            "backbone"
        ]

    pixels, c = 8 * 6, 64  # the first block of the stage strides after its attention
    assert backbone("relative") - backbone("none") == pixels * (15 + 11) * c
    assert backbone("absolute") - backbone("none") == pixels**2 * c
    assert backbone("query_place") == backbone("absolute")


def test_padding_of_windows_and_remat():
    fields = dict(widths=(8, 16), depths=(2, 1), heads=(1, 2), windows=(7, 7))
    for remat in (False, True):
        model = attnseg.create_model("swin_t", 5, backbone=dict(fields, remat=remat))
        first = 2 * (14 * 14 * (4 * 64 + 2 * 49 * 8) + 8 * 8 * 8 * 64)  # 8x8 padded to 14x14
        second = 4 * 4 * (4 * 256 + 2 * 16 * 16 + 8 * 256)  # the window becomes the grid, 4x4
        embed, merge = 8 * 8 * 48 * 8, 4 * 4 * 32 * 16
        assert count_macs(model, (32, 32))["backbone"] == first + second + embed + merge


def test_the_auxiliary_head_is_told_apart():
    parts = count_macs(attnseg.create_model("fcn_r50", 19), (64, 64))
    assert parts["aux_head"] == 8 * 8 * (9 * 1024 * 256 + 256 * 19)
