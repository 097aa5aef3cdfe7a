"""CCNet as mmsegmentation, its authors, PaddleSeg and the post name it: one table each."""

from __future__ import annotations

import numpy as np

from attnseg.weights.resnet import BLOCK, BODY, PLAIN_STEM, TARGET, shortcut
from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    kernel,
    paddle_batch_norm,
    pair,
    pointwise,
    same,
    scalar,
    weight,
)

CONSTANT_DILATION = {"stem": "deep", "dilation": "os8_constant"}
_PADDLE_NORM = ("weight", "bias", "_mean", "_variance")

# InPlaceABN multiplies by |weight| (and a further 1e-5, left out) where BatchNorm multiplies by
# weight. The sign is lost in reading, which no output can tell.
magnitude = Convert(lambda x: (np.abs(x),), lambda x: x)


def inplace_abn(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for mapillary's InPlaceABN, with or without the counter of batches."""
    scale, *others = batch_norm(source, target)
    return (scale._replace(convert=magnitude), *others)


def _attention(query: str, key: str, value: str) -> tuple[Rule, ...]:
    return (
        *pair(query, "head/attention/query", pointwise),
        *pair(key, "head/attention/key", pointwise),
        *pair(value, "head/attention/value", pointwise),
    )


def _gamma(source: str, convert: Convert = same) -> tuple[Rule, ...]:
    return (Rule(source, ("params/head/attention/gamma",), convert),)


MMSEG = Layout(
    name="mmsegmentation CCNet",
    part=HEAD,
    marks=("cca.gamma.scale", "convs.0.conv.weight"),
    rules=(
        *weight("convs.0.conv", "head/reduce/conv"),
        *batch_norm("convs.0.bn", "head/reduce/norm"),
        *_attention("cca.query_conv", "cca.key_conv", "cca.value_conv"),
        *_gamma("cca.gamma.scale", scalar),
        *weight("convs.1.conv", "head/mix/conv"),
        *batch_norm("convs.1.bn", "head/mix/norm"),
        *weight("conv_cat.conv", "head/fuse/conv"),
        *batch_norm("conv_cat.bn", "head/fuse/norm"),
        *pair("conv_seg", "head/classifier", pointwise),
    ),
    prefix="decode_head.",
    licence="Apache-2.0",
    fields={"variant": "mmseg"},
)

OFFICIAL = Layout(
    name="CCNet of its authors",
    part=HEAD,
    marks=("cca.gamma", "conva.0.weight"),
    rules=(
        *weight("conva.0", "head/reduce/conv"),
        *inplace_abn("conva.1", "head/reduce/norm"),
        *_attention("cca.query_conv", "cca.key_conv", "cca.value_conv"),
        *_gamma("cca.gamma"),
        *weight("convb.0", "head/mix/conv"),
        *inplace_abn("convb.1", "head/mix/norm"),
        *weight("bottleneck.0", "head/fuse/conv"),
        *inplace_abn("bottleneck.1", "head/fuse/norm"),
        *pair("bottleneck.3", "head/classifier", pointwise),
        Rule("dsn.{i}.weight"),  # the auxiliary head, which has no counterpart here
        Rule("dsn.{i}.bias"),
        Rule("dsn.{i}.running_mean"),
        Rule("dsn.{i}.running_var"),
        Rule("dsn.{i}.num_batches_tracked"),
    ),
    prefix="head.",
    licence="MIT",
    fields={"variant": "official"},
)

PADDLESEG = Layout(
    name="PaddleSeg CCNet",
    part=HEAD,
    marks=("cca.q_conv.weight",),
    rules=(
        *weight("conva._conv", "head/reduce/conv"),
        *paddle_batch_norm("conva._batch_norm", "head/reduce/norm"),
        *_attention("cca.q_conv", "cca.k_conv", "cca.v_conv"),
        *_gamma("cca.gamma"),
        *weight("convb._conv", "head/mix/conv"),
        *paddle_batch_norm("convb._batch_norm", "head/mix/norm"),
        *weight("out.conv_bn_relu._conv", "head/fuse/conv"),
        Rule("out.conv_bn_relu._conv.bias", ("params/head/fuse/bias",)),
        *paddle_batch_norm("out.conv_bn_relu._batch_norm", "head/fuse/norm"),
        *pair("out.conv", "head/classifier", pointwise),
        # The auxiliary head, which has no counterpart here.
        Rule("aux_head.conv_bn_relu._conv.weight"),
        Rule("aux_head.conv_bn_relu._conv.bias"),
        *(Rule(f"aux_head.conv_bn_relu._batch_norm.{part}") for part in _PADDLE_NORM),
        Rule("aux_head.conv.weight"),
        Rule("aux_head.conv.bias"),
    ),
    prefix="head.",
    licence="Apache-2.0",
    fields={"variant": "paddleseg"},
)

POST = Layout(
    name="CCNet of the post",
    part=HEAD,
    marks=("CCA.gamma", "conv_in.0.weight"),
    rules=(
        *weight("conv_in.0", "head/reduce/conv"),
        *batch_norm("conv_in.1", "head/reduce/norm"),
        *_attention("CCA.ConvQuery", "CCA.ConvKey", "CCA.ConvValue"),
        *_gamma("CCA.gamma"),
        *weight("conv_out.0", "head/mix"),
        *weight("cls_seg.0", "head/fuse/conv"),
        *batch_norm("cls_seg.1", "head/fuse/norm"),
        *pair("cls_seg.3", "head/classifier", pointwise),
    ),
    prefix="decode_head.",
    fields={"variant": "post"},
)

# The authors' images are BGR, less (104, 116.7, 122.7), not divided by a deviation.
OFFICIAL_ENCODER = Layout(
    name="ResNet of CCNet's authors",
    part=ENCODER,
    marks=("conv3.weight", "layer1.0.conv1.weight", "head.cca.gamma"),
    rules=(
        Rule("conv1.weight", ("params/backbone/stem/conv1/kernel",), kernel),
        Rule("conv2.weight", ("params/backbone/stem/conv2/kernel",), kernel),
        Rule("conv3.weight", ("params/backbone/stem/conv3/kernel",), kernel),
        *inplace_abn("bn{K}", "backbone/stem/norm{K}"),
        Rule(BLOCK + "conv{K}.weight", (f"params/{TARGET}conv{{K}}/kernel",), kernel),
        *inplace_abn(BLOCK + "bn{K}", TARGET + "norm{K}"),
        *weight(BLOCK + "downsample.0", TARGET + "shortcut/conv"),
        *inplace_abn(BLOCK + "downsample.1", TARGET + "shortcut/norm"),
    ),
    licence="MIT",
    fields=CONSTANT_DILATION | {"pooled_shortcut": False, "stem_width": 128, "stem_ceil": True},
    images="BGR, less (104, 116.7, 122.7), not divided",
)

_BLOCK = "bb_{s}_{b}."
_TARGET = "backbone/stage{s}_block{b}/"
PADDLESEG_ENCODER = Layout(
    name="PaddleSeg ResNet-vd",
    part=ENCODER,
    marks=("conv1_1._conv.weight", "bb_0_0.short._conv.weight"),
    rules=(
        *weight("conv1_{K}._conv", "backbone/stem/conv{K}"),
        *paddle_batch_norm("conv1_{K}._batch_norm", "backbone/stem/norm{K}"),
        *weight(_BLOCK + "conv{k}._conv", _TARGET + "conv{k}"),
        *paddle_batch_norm(_BLOCK + "conv{k}._batch_norm", _TARGET + "norm{k}"),
        *weight(_BLOCK + "short._conv", _TARGET + "shortcut/conv"),
        *paddle_batch_norm(_BLOCK + "short._batch_norm", _TARGET + "shortcut/norm"),
    ),
    prefix="backbone.",
    licence="Apache-2.0",
    fields=CONSTANT_DILATION | {"pooled_shortcut": True},
)

POST_ENCODER = Layout(
    name="ResNet of the CCNet post",
    part=ENCODER,
    marks=("conv1.weight", "layer1.0.conv1.weight", "decode_head.CCA.gamma"),
    # The post keeps the classifier of ImageNet without using it.
    rules=(*PLAIN_STEM, *BODY, *shortcut(0), Rule("fc.weight"), Rule("fc.bias")),
    prefix="backbone.",
    fields={"stem": "plain", "pooled_shortcut": False, "dilation": "post"},
)

LAYOUTS = (
    OFFICIAL_ENCODER,
    PADDLESEG_ENCODER,
    POST_ENCODER,
    MMSEG,
    OFFICIAL,
    PADDLESEG,
    POST,
)
