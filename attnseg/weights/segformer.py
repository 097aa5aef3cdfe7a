"""SegFormer and MiT as Hugging Face, NVlabs and mmsegmentation name them."""

from __future__ import annotations

from attnseg.models.backbones.mit import EPSILONS
from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Layout,
    Rule,
    batch_norm,
    kernel,
    mixing,
    norm,
    pair,
    pointwise,
    stacked,
)

BLOCK = "backbone/stage{s}_block{b}/"
BLOCK_1 = "backbone/stage{S}_block{b}/"  # where the source counts stages from 1
COARSE_FIRST, FINE_FIRST = (3, 2, 1, 0), (0, 1, 2, 3)
MIXES = tuple(f"params/head/stage{i}/mix" for i in (1, 2, 3, 4))


def _epsilons(layout: str) -> tuple[tuple[str, float], ...]:
    """Epsilon of every LayerNorm of the backbone, by the name of its scale."""
    places = EPSILONS[layout]
    return (
        (r"_embed/norm/scale$", places.embed),
        (r"/reduce_norm/scale$", places.reduction),
        (r"_block\d+/norm\d/scale$", places.block),
        (r"stage\d_norm/scale$", places.stage),
    )


NVIDIA = "NVIDIA Source Code License for the weights NVIDIA published: non-commercial use only"

HF_ENCODER = Layout(
    name="Hugging Face MiT",
    part=ENCODER,
    prefix="segformer.",
    marks=("encoder.patch_embeddings.{s}.proj.weight",),
    rules=(
        *pair("encoder.patch_embeddings.{s}.proj", "backbone/stage{s}_embed/proj", kernel),
        *norm("encoder.patch_embeddings.{s}.layer_norm", "backbone/stage{s}_embed/norm"),
        *norm("encoder.block.{s}.{b}.layer_norm_1", BLOCK + "norm1"),
        *norm("encoder.block.{s}.{b}.layer_norm_2", BLOCK + "norm2"),
        *pair("encoder.block.{s}.{b}.attention.self.query", BLOCK + "attention/query"),
        *pair("encoder.block.{s}.{b}.attention.self.key", BLOCK + "attention/key"),
        *pair("encoder.block.{s}.{b}.attention.self.value", BLOCK + "attention/value"),
        *pair("encoder.block.{s}.{b}.attention.self.sr", BLOCK + "attention/reduce", kernel),
        *norm("encoder.block.{s}.{b}.attention.self.layer_norm", BLOCK + "attention/reduce_norm"),
        *pair("encoder.block.{s}.{b}.attention.output.dense", BLOCK + "attention/out"),
        *pair("encoder.block.{s}.{b}.mlp.dense1", BLOCK + "ffn/expand"),
        *pair("encoder.block.{s}.{b}.mlp.dwconv.dwconv", BLOCK + "ffn/depthwise", kernel),
        *pair("encoder.block.{s}.{b}.mlp.dense2", BLOCK + "ffn/project"),
        *norm("encoder.layer_norm.{s}", "backbone/stage{s}_norm"),
    ),
    licence=NVIDIA,
    fields={"layout": "hf"},
    epsilons=_epsilons("hf"),
)

HF_HEAD = Layout(
    name="Hugging Face SegFormer decoder",
    part=HEAD,
    marks=("decode_head.linear_c.{s}.proj.weight", "decode_head.linear_fuse.weight"),
    rules=(
        *pair("decode_head.linear_c.{s}.proj", "head/stage{s}"),
        Rule("decode_head.linear_fuse.weight", MIXES, mixing(COARSE_FIRST)),
        *batch_norm("decode_head.batch_norm", "head/norm"),
        *pair("decode_head.classifier", "head/classifier", pointwise),
    ),
    licence=NVIDIA,
)

HF_CLASSIFIER = Layout(
    name="Hugging Face classifier",
    part=HEAD,
    marks=("encoder.patch_embeddings.{s}.proj.weight", "classifier.weight"),
    rules=pair("classifier", "head/classifier"),
    licence=NVIDIA,
)

NVLABS_ENCODER = Layout(
    name="NVlabs MiT",
    part=ENCODER,
    prefix="backbone.",
    marks=("patch_embed1.proj.weight", "block1.0.attn.kv.weight"),
    rules=(
        *pair("patch_embed{S}.proj", "backbone/stage{S}_embed/proj", kernel),
        *norm("patch_embed{S}.norm", "backbone/stage{S}_embed/norm"),
        *norm("block{S}.{b}.norm1", BLOCK_1 + "norm1"),
        *norm("block{S}.{b}.norm2", BLOCK_1 + "norm2"),
        *pair("block{S}.{b}.attn.q", BLOCK_1 + "attention/query"),
        *stacked(
            "block{S}.{b}.attn.kv.",
            (BLOCK_1 + "attention/key", BLOCK_1 + "attention/value"),
            "weight",
            "bias",
        ),
        *pair("block{S}.{b}.attn.sr", BLOCK_1 + "attention/reduce", kernel),
        *norm("block{S}.{b}.attn.norm", BLOCK_1 + "attention/reduce_norm"),
        *pair("block{S}.{b}.attn.proj", BLOCK_1 + "attention/out"),
        *pair("block{S}.{b}.mlp.fc1", BLOCK_1 + "ffn/expand"),
        *pair("block{S}.{b}.mlp.dwconv.dwconv", BLOCK_1 + "ffn/depthwise", kernel),
        *pair("block{S}.{b}.mlp.fc2", BLOCK_1 + "ffn/project"),
        *norm("norm{S}", "backbone/stage{S}_norm"),
        *pair("head", "head/classifier"),
    ),
    licence="NVIDIA Source Code License: non-commercial use only",
    fields={"layout": "nvlabs"},
    epsilons=_epsilons("nvlabs"),
)

NVLABS_HEAD = Layout(
    name="NVlabs SegFormer decoder",
    part=HEAD,
    marks=("decode_head.linear_c{S}.proj.weight", "decode_head.linear_fuse.conv.weight"),
    rules=(
        *pair("decode_head.linear_c{S}.proj", "head/stage{S}"),
        Rule("decode_head.linear_fuse.conv.weight", MIXES, mixing(COARSE_FIRST)),
        *batch_norm("decode_head.linear_fuse.bn", "head/norm"),
        *pair("decode_head.linear_pred", "head/classifier", pointwise),
        Rule("decode_head.conv_seg.weight"),  # registered upstream, never used
        Rule("decode_head.conv_seg.bias"),
    ),
    licence="NVIDIA Source Code License: non-commercial use only",
)

MMSEG_LICENCE = (
    "Apache-2.0 for weights mmsegmentation trained; its ImageNet encoders are NVIDIA's, "
    "non-commercial use only"
)
MMSEG_ENCODER = Layout(
    name="mmseg MiT",
    part=ENCODER,
    prefix="backbone.",
    marks=("layers.0.0.projection.weight", "layers.0.1.0.attn.attn.in_proj_weight"),
    rules=(
        *pair("layers.{s}.0.projection", "backbone/stage{s}_embed/proj", kernel),
        *norm("layers.{s}.0.norm", "backbone/stage{s}_embed/norm"),
        *norm("layers.{s}.1.{b}.norm1", BLOCK + "norm1"),
        *norm("layers.{s}.1.{b}.norm2", BLOCK + "norm2"),
        *stacked(
            "layers.{s}.1.{b}.attn.attn.in_proj_",
            tuple(BLOCK + f"attention/{part}" for part in ("query", "key", "value")),
            "weight",
            "bias",
        ),
        *pair("layers.{s}.1.{b}.attn.attn.out_proj", BLOCK + "attention/out"),
        *pair("layers.{s}.1.{b}.attn.sr", BLOCK + "attention/reduce", kernel),
        *norm("layers.{s}.1.{b}.attn.norm", BLOCK + "attention/reduce_norm"),
        *pair("layers.{s}.1.{b}.ffn.layers.0", BLOCK + "ffn/expand", pointwise),
        *pair("layers.{s}.1.{b}.ffn.layers.1", BLOCK + "ffn/depthwise", kernel),
        *pair("layers.{s}.1.{b}.ffn.layers.4", BLOCK + "ffn/project", pointwise),
        *norm("layers.{s}.2", "backbone/stage{s}_norm"),
    ),
    licence=MMSEG_LICENCE,
    fields={"layout": "mmseg"},
    epsilons=_epsilons("mmseg"),
)

MMSEG_HEAD = Layout(
    name="mmseg SegFormer decoder",
    part=HEAD,
    marks=("decode_head.convs.0.conv.weight", "decode_head.fusion_conv.conv.weight"),
    rules=(
        Rule(
            "decode_head.convs.{s}.conv.weight",
            ("params/head/stage{s}/proj/kernel",),
            pointwise,
        ),
        *batch_norm("decode_head.convs.{s}.bn", "head/stage{s}/norm"),
        Rule("decode_head.fusion_conv.conv.weight", MIXES, mixing(FINE_FIRST)),
        *batch_norm("decode_head.fusion_conv.bn", "head/norm"),
        *pair("decode_head.conv_seg", "head/classifier", pointwise),
    ),
    licence=MMSEG_LICENCE,
)

LAYOUTS = (
    HF_ENCODER,
    HF_HEAD,
    HF_CLASSIFIER,
    NVLABS_ENCODER,
    NVLABS_HEAD,
    MMSEG_ENCODER,
    MMSEG_HEAD,
)
