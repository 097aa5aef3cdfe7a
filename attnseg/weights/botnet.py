"""BoTNet as timm names it: its attention within a torchvision ResNet, and its botnet26t."""

from __future__ import annotations

import numpy as np

from attnseg.ops.relative_position import resize_relative
from attnseg.weights.resnet import BLOCK, BODY, PLAIN_STEM, TARGET, shortcut
from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    pair,
    weight,
)

# Queries, keys and values of one 1x1 convolution [3o i 1 1] -> three [i o].
thirds = Convert(
    lambda x: tuple(p.reshape(p.shape[:2]).T for p in np.split(x, 3)),
    lambda *xs: np.concatenate([x.T for x in xs])[..., None, None],
)
TABLES = ((r"/conv2/(height|width)$", lambda table, rows: resize_relative(table, rows // 2 + 1)),)
FIELDS = {"position": "relative", "scale": "content", "attention_bias": False, "transpose": False}


def _attention(source: str, target: str) -> tuple[Rule, ...]:
    parts = tuple(f"params/{target}/{part}/kernel" for part in ("query", "key", "value"))
    return (
        Rule(f"{source}.qkv.weight", parts, thirds),
        Rule(f"{source}.pos_embed.height_rel", (f"params/{target}/height",)),
        Rule(f"{source}.pos_embed.width_rel", (f"params/{target}/width",)),
    )


TIMM = Layout(
    name="timm attention in a torchvision ResNet",
    part=ENCODER,
    marks=("conv1.weight", "layer4.0.conv2.qkv.weight"),
    rules=(
        *PLAIN_STEM,
        *BODY,
        *_attention(BLOCK + "conv2", TARGET + "conv2"),
        *shortcut(0),
    ),
    prefix="backbone.",
    licence="Apache-2.0 for timm's weights",
    fields=FIELDS | {"stem": "plain", "pooled_shortcut": False},
    tables=TABLES,
)


def _conv_norm(source: str, conv: str, its_norm: str) -> tuple[Rule, ...]:
    return (*weight(f"{source}.conv", conv), *batch_norm(f"{source}.bn", its_norm))


_STAGE = "stages.{s}.{b}."
_TARGET = "backbone/stage{s}_block{b}/"
# (stage, block) that attend, from 0. Their rules come before those of convolutions, which have
# the same targets.
_ATTENDS = ((2, 1), (3, 0), (3, 1))

TIMM_26T = Layout(
    name="timm botnet26t",
    part=ENCODER,
    marks=("stages.2.1.self_attn.qkv.weight", "stages.3.0.post_attn.bias"),
    rules=(
        *_conv_norm("stem.conv{K}", "backbone/stem/conv{K}", "backbone/stem/norm{K}"),
        *(
            rule
            for s, b in _ATTENDS
            for rule in batch_norm(
                f"stages.{s}.{b}.post_attn", f"backbone/stage{s + 1}_block{b + 1}/norm2"
            )
        ),
        *_attention(_STAGE + "self_attn", _TARGET + "conv2"),
        *_conv_norm(_STAGE + "conv1_1x1", _TARGET + "conv1", _TARGET + "norm1"),
        *_conv_norm(_STAGE + "conv2_kxk", _TARGET + "conv2", _TARGET + "norm2"),
        *_conv_norm(_STAGE + "conv3_1x1", _TARGET + "conv3", _TARGET + "norm3"),
        *_conv_norm(_STAGE + "shortcut", _TARGET + "shortcut/conv", _TARGET + "shortcut/norm"),
    ),
    licence="Apache-2.0",
    fields=FIELDS | {"stem": "tiered", "attend": (0, 0, 1, 2)},
    tables=TABLES,
)

CLASSIFIER_26T = Layout(
    name="timm botnet26t classifier",
    part=HEAD,
    marks=("stages.3.0.post_attn.bias", "head.fc.weight"),
    rules=pair("head.fc", "head/classifier"),
    licence="Apache-2.0",
)

LAYOUTS = (TIMM, TIMM_26T, CLASSIFIER_26T)  # the first has torchvision's classifier
