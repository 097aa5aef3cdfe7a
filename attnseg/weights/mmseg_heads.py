"""Decoder heads as mmsegmentation names them, one table each.

A table says which module a file belongs to, not the fields that leave no trace in the keys: pool
sides, dilations, the number of EM stages, and whether a non-local block is "embedded_gaussian"
or "dot_product" (one set of keys) have to be given to the model.
"""

from __future__ import annotations

import numpy as np

from attnseg.weights.rules import (
    AUX_HEAD,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    kernel,
    pair,
    pointwise,
    scalar,
    weight,
)

LICENCE = "Apache-2.0"


def _read_conv(x: np.ndarray) -> tuple[np.ndarray, ...]:
    return (pointwise if x.shape[2:] == (1, 1) else kernel).read(x)


def _write_conv(x: np.ndarray) -> np.ndarray:
    return (pointwise if x.ndim == 2 else kernel).write(x)


# [o i h w] -> [h w i o], or [i o] where h = w = 1: what ConvNorm keeps.
any_kernel = Convert(_read_conv, _write_conv)
# Running bases [1 c k] -> [c k].
bases = Convert(lambda x: (x[0],), lambda x: x[None])


def conv_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for mmcv's ConvModule with BatchNorm, our `ConvNorm`."""
    return (
        *weight(f"{source}.conv", f"{target}/conv", any_kernel),
        *batch_norm(f"{source}.bn", f"{target}/norm"),
    )


def separable(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for mmcv's DepthwiseSeparableConvModule, our `SeparableConvNorm`."""
    return (
        *conv_norm(f"{source}.depthwise_conv", f"{target}/depthwise"),
        *conv_norm(f"{source}.pointwise_conv", f"{target}/pointwise"),
    )


CLASSIFIER = pair("conv_seg", "head/classifier", pointwise)
PYRAMID = (
    *conv_norm("psp_modules.{p}.1", "head/pyramid/pool{p}"),
    *conv_norm("bottleneck", "head/pyramid/bottleneck"),
)


def _head(name: str, marks: tuple[str, ...], *rules: Rule, **fields) -> Layout:
    return Layout(
        name=f"mmsegmentation {name}",
        part=HEAD,
        marks=marks,
        rules=(*rules, *CLASSIFIER),
        prefix="decode_head.",
        licence=LICENCE,
        fields=fields,
    )


UPERNET = _head(
    "UPerNet",
    ("lateral_convs.0.conv.weight", "psp_modules.0.1.conv.weight"),
    *PYRAMID,
    *conv_norm("lateral_convs.{s}", "head/lateral{s}"),
    *conv_norm("fpn_convs.{s}", "head/fpn{s}"),
    *conv_norm("fpn_bottleneck", "head/fuse"),
)
PSP = _head("PSPNet", ("psp_modules.0.1.conv.weight",), *PYRAMID)

ASPP_SHARED = (
    *conv_norm("image_pool.1", "head/aspp/mean"),
    *conv_norm("aspp_modules.{b}", "head/aspp/branch{b}"),
    *conv_norm("bottleneck", "head/aspp/bottleneck"),
)
DEEPLABV3PLUS = _head(
    "DeepLabV3+",
    ("aspp_modules.{b}.depthwise_conv.conv.weight",),
    *ASPP_SHARED,
    *separable("aspp_modules.{b}", "head/aspp/branch{b}"),
    *conv_norm("c1_bottleneck", "head/low"),
    *separable("sep_bottleneck.{i}", "head/refine{i}"),
    separable=True,
)
DEEPLABV3 = _head(
    "DeepLabV3", ("aspp_modules.0.conv.weight",), *ASPP_SHARED, separable=False, low_width=0
)

DANET = _head(
    "DANet",
    ("pam.gamma.scale", "cam.gamma.scale"),
    *conv_norm("pam_in_conv", "head/position_in"),
    *pair("pam.query_project", "head/position/query", pointwise),
    *pair("pam.key_project", "head/position/key", pointwise),
    *pair("pam.value_project", "head/position/value", pointwise),
    Rule("pam.gamma.scale", ("params/head/position/gamma",), scalar),
    *conv_norm("pam_out_conv", "head/position_out"),
    *pair("pam_conv_seg", "head/position_classifier", pointwise),
    *conv_norm("cam_in_conv", "head/channel_in"),
    Rule("cam.gamma.scale", ("params/head/channel/gamma",), scalar),
    *conv_norm("cam_out_conv", "head/channel_out"),
    *pair("cam_conv_seg", "head/channel_classifier", pointwise),
)

EMANET = _head(
    "EMANet",
    ("ema_module.bases",),
    *conv_norm("ema_in_conv", "head/in"),
    *pair("ema_mid_conv.conv", "head/mid", pointwise),
    Rule("ema_module.bases", ("batch_stats/head/attention/bases",), bases),
    *conv_norm("ema_out_conv", "head/out"),
    *conv_norm("bottleneck", "head/bottleneck"),
    *conv_norm("conv_cat", "head/fuse"),
)

FCN_SHARED = (*conv_norm("convs.{i}", "head/conv{i}"), *conv_norm("conv_cat", "head/fuse"))
NONLOCAL_SHARED = (
    *FCN_SHARED,
    *pair("nl_block.g.conv", "head/attention/value", pointwise),
    *weight("nl_block.conv_out.conv", "head/attention/out", pointwise),
    *batch_norm("nl_block.conv_out.bn", "head/attention/norm"),
)
NONLOCAL = _head(
    "NonLocal",
    ("nl_block.g.conv.weight", "nl_block.theta.conv.weight"),
    *NONLOCAL_SHARED,
    *pair("nl_block.theta.conv", "head/attention/query", pointwise),
    *pair("nl_block.phi.conv", "head/attention/key", pointwise),
)
NONLOCAL_GAUSSIAN = _head(
    "NonLocal, gaussian", ("nl_block.g.conv.weight",), *NONLOCAL_SHARED, mode="gaussian"
)

# Nothing in an FCN head is its own: this must be the last table of heads that is tried.
FCN = _head("FCN", ("convs.0.conv.weight", "conv_seg.weight"), *FCN_SHARED)


def _auxiliary(rule: Rule) -> Rule:
    targets = tuple(t.replace("/head/", "/aux_head/") for t in rule.targets)
    return rule._replace(key=f"auxiliary_head.{rule.key}", targets=targets)


# Its prefix is no optional one: without it the keys would be those of a main head.
AUXILIARY = Layout(
    name="mmsegmentation auxiliary FCN",
    part=AUX_HEAD,
    marks=("auxiliary_head.convs.0.conv.weight", "auxiliary_head.conv_seg.weight"),
    rules=tuple(_auxiliary(rule) for rule in FCN.rules),
    licence=LICENCE,
)

LAYOUTS = (
    AUXILIARY,
    UPERNET,
    PSP,
    DEEPLABV3PLUS,
    DEEPLABV3,
    DANET,
    EMANET,
    NONLOCAL,
    NONLOCAL_GAUSSIAN,
    FCN,
)
