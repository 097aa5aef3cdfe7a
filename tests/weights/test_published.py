"""Every published list of keys, through the public functions and the published names alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import attnseg

FOLDER = Path(__file__).parent
KEYS = {
    source: entry.get("keys", entry)
    for path in sorted(FOLDER.glob("*_keys.json"))
    if path.stem != "mmseg_heads_keys"
    for source, entry in json.loads(path.read_text()).items()
}
ON_RESNET = json.loads((FOLDER / "mmseg_heads_keys.json").read_text())  # one encoder, many heads
KEYS |= {s: ON_RESNET["backbone"] | net["keys"] for s, net in ON_RESNET["networks"].items()}
MODELS = {
    "hf_hub_mit_b0_cls1000": ("mit_b0", 1000),
    "hf_hub_segformer_b0_150": ("segformer_b0", 150),
    "hf_hub_segformer_b2_150": ("segformer_b2", 150),
    "nvlabs_segformer_b0_150": ("segformer_b0", 150),
    "paddleseg_segformer_b0_19": ("segformer_b0", 19),
    "mmseg_segnext_t_150": ("segnext_t", 150),
    "mmseg_segnext_s_150": ("segnext_s", 150),
    "official_segnext_t_150": ("segnext_t", 150),
    "paddleseg_segnext_t_150": ("segnext_t", 150),
    "official_conv2former_n": ("conv2former_n", 1000),
    "official_conv2former_t": ("conv2former_t", 1000),
    "post_conv2former_n_cifar10_paddle": ("conv2former_n_cifar", 10),
    "mmseg_ccnet_r50_d8_19": ("ccnet_r50", 19),
    "mmseg_pspnet_r50_d8_19": ("pspnet_r50", 19),
    "mmseg_deeplabv3plus_r50_d8_19": ("deeplabv3plus_r50", 19),
    "mmseg_danet_r50_d8_19": ("danet_r50", 19),
    "mmseg_emanet_r50_d8_19": ("emanet_r50", 19),
    "mmseg_nonlocal_r50_d8_19": ("nonlocal_r50", 19),
    "mmseg_upernet_r50_d8_19": ("upernet_r50", 19),
    "timm_resnet18": ("resnet18", 1000),
    "timm_resnet50": ("resnet50", 1000),
    "timm_botnet26t_256": ("botnet26t", 1000),
    "timm_swin_tiny_patch4_window7_224": ("swin_t", 1000),
}
# Networks that differ from the published one of that name: the error says how.
DIFFERENT = {
    "mmseg_segformer_b0_150": ("segformer_b0", 150, r"head=dict\(stage_norm=True\)"),
    "official_ccnet_r101_19": ("ccnet_r101", 19, r"stem_width=128.*head=dict\(variant='official'"),
    "paddleseg_ccnet_r101vd_19": ("ccnet_r101", 19, r"pooled_shortcut=True.*variant='paddleseg'"),
    "post_ccnet_r50_33": ("ccnet_r50", 33, r"stem='plain'.*head=dict\(variant='post'"),
}


def zeros(source):
    return {k: np.zeros(shape, np.float32) for k, shape in KEYS[source].items()}


@pytest.mark.parametrize("source", MODELS)
def test_the_named_model_takes_everything(source):
    _, report = attnseg.load_weights(attnseg.create_model(*MODELS[source]), zeros(source))
    assert not report.skipped and not report.unused


@pytest.mark.parametrize("source", DIFFERENT)
def test_another_network_is_told_how_to_be_created(source):
    name, classes, message = DIFFERENT[source]
    model = attnseg.create_model(name, classes)
    with pytest.raises(attnseg.UserError, match=message):
        attnseg.load_weights(model, zeros(source))
