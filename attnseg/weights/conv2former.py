"""Conv2Former as its authors' code and as the post's Paddle code name it."""

from __future__ import annotations

import numpy as np

from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    kernel,
    norm,
    pair,
    pointwise,
    same,
    weight,
)


def _read_patches(x: np.ndarray) -> tuple[np.ndarray]:
    return (x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),)


def _write_patches(x: np.ndarray) -> np.ndarray:
    return x.reshape(2, 2, -1, x.shape[-1]).transpose(3, 2, 0, 1)


# 2x2 convolution of stride 2 [o i 2 2] -> linear map of patches [4i o].
patches = Convert(_read_patches, _write_patches)

STAGES = range(1, 4)  # those that begin with a downsampling, counted from 0


def _block(source: str, context: str) -> tuple[Rule, ...]:
    """Rules of a block; `context` is the name of the branch that modulates."""
    target = "backbone/stage{s}_block{b}"
    return (
        *norm(f"{source}.attn.norm", f"{target}/norm1"),
        *pair(f"{source}.attn.{context}.0", f"{target}/modulation/context", pointwise),
        *pair(f"{source}.attn.{context}.2", f"{target}/modulation/depthwise", kernel),
        *pair(f"{source}.attn.v", f"{target}/modulation/value", pointwise),
        *pair(f"{source}.attn.proj", f"{target}/modulation/out", pointwise),
        *norm(f"{source}.mlp.norm", f"{target}/norm2"),
        *pair(f"{source}.mlp.fc1", f"{target}/ffn/expand", pointwise),
        *pair(f"{source}.mlp.pos", f"{target}/ffn/depthwise", kernel),
        *pair(f"{source}.mlp.fc2", f"{target}/ffn/project", pointwise),
    )


_MARK = "stages.{s}.{b}.attn.att.2.weight"
OFFICIAL = Layout(
    name="official Conv2Former",
    part=ENCODER,
    marks=(_MARK,),
    rules=(
        *weight("downsample_layers.0.0", "backbone/stem/conv1"),
        *batch_norm("downsample_layers.0.2", "backbone/stem/norm1"),
        *weight("downsample_layers.0.3", "backbone/stem/conv2"),
        *batch_norm("downsample_layers.0.5", "backbone/stem/norm2"),
        *weight("downsample_layers.0.6", "backbone/stem/proj", patches),
        *(
            rule
            for s in STAGES
            for rule in (
                *norm(f"downsample_layers.{s}.0", f"backbone/stage{s + 1}_down/norm"),
                *pair(f"downsample_layers.{s}.1", f"backbone/stage{s + 1}_down/proj", patches),
            )
        ),
        Rule("stages.{s}.{b}.layer_scale_1", ("params/backbone/stage{s}_block{b}/scale1",)),
        Rule("stages.{s}.{b}.layer_scale_2", ("params/backbone/stage{s}_block{b}/scale2",)),
        *_block("stages.{s}.{b}", "att"),
    ),
    licence="Apache-2.0",
)
OFFICIAL_HEAD = Layout(
    name="official Conv2Former classifier",
    part=HEAD,
    marks=(_MARK, "pred.weight"),
    rules=(
        *pair("head.0", "head/expand", pointwise),
        *norm("head.2", "head/norm"),
        *pair("pred", "head/classifier"),
    ),
    licence="Apache-2.0",
)

_POST_MARK = "layers.{s}.blocks.{b}.attn.a.2.weight"
POST = Layout(
    name="Conv2Former for CIFAR, Paddle",
    part=ENCODER,
    marks=(_POST_MARK,),
    rules=(
        *pair("fc1", "backbone/stem", pointwise),
        *(
            rule
            for s in STAGES
            for rule in (
                *norm(f"layers.{s - 1}.downsample.0", f"backbone/stage{s + 1}_down/norm"),
                *weight(
                    f"layers.{s - 1}.downsample.1", f"backbone/stage{s + 1}_down/proj", patches
                ),
            )
        ),
        *_block("layers.{s}.blocks.{b}", "a"),
        *norm("norm", "backbone/stage4_norm"),
    ),
)
POST_HEAD = Layout(
    name="Conv2Former for CIFAR, Paddle, classifier",
    part=HEAD,
    marks=(_POST_MARK, "head.weight"),
    rules=pair("head", "head/classifier", same),  # Paddle's linear maps are [i o] as ours
)

LAYOUTS = (OFFICIAL, OFFICIAL_HEAD, POST, POST_HEAD)
