"""SegFormer and MiT as Hugging Face, NVlabs, PaddleSeg and mmsegmentation name them."""

from __future__ import annotations

import numpy as np

from attnseg.models.backbones.mit import EPSILONS
from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    dense,
    dense_parts,
    kernel,
    mixing,
    norm,
    paddle_batch_norm,
    pair,
    pointwise,
    same,
    stacked,
    vector_parts,
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
    marks=("segformer.encoder.patch_embeddings.{s}.proj.weight", "classifier.weight"),
    rules=pair("classifier", "head/classifier"),
    licence=NVIDIA,
)

# transformers 5 renames the modules in memory; files keep the names above.
HF5_ENCODER = Layout(
    name="transformers 5 MiT",
    part=ENCODER,
    prefix="segformer.",
    marks=("stages.{s}.patch_embeddings.proj.weight",),
    rules=(
        *pair("stages.{s}.patch_embeddings.proj", "backbone/stage{s}_embed/proj", kernel),
        *norm("stages.{s}.patch_embeddings.layer_norm", "backbone/stage{s}_embed/norm"),
        *norm("stages.{s}.blocks.{b}.layernorm_before", BLOCK + "norm1"),
        *norm("stages.{s}.blocks.{b}.layernorm_after", BLOCK + "norm2"),
        *pair("stages.{s}.blocks.{b}.attention.q_proj", BLOCK + "attention/query"),
        *pair("stages.{s}.blocks.{b}.attention.k_proj", BLOCK + "attention/key"),
        *pair("stages.{s}.blocks.{b}.attention.v_proj", BLOCK + "attention/value"),
        *pair("stages.{s}.blocks.{b}.attention.o_proj", BLOCK + "attention/out"),
        *pair(
            "stages.{s}.blocks.{b}.attention.sequence_reduction.sequence_reduction",
            BLOCK + "attention/reduce",
            kernel,
        ),
        *norm(
            "stages.{s}.blocks.{b}.attention.sequence_reduction.layer_norm",
            BLOCK + "attention/reduce_norm",
        ),
        *pair("stages.{s}.blocks.{b}.mlp.fc1", BLOCK + "ffn/expand"),
        *pair("stages.{s}.blocks.{b}.mlp.dwconv.dwconv", BLOCK + "ffn/depthwise", kernel),
        *pair("stages.{s}.blocks.{b}.mlp.fc2", BLOCK + "ffn/project"),
        *norm("stages.{s}.layer_norm", "backbone/stage{s}_norm"),
    ),
    licence=NVIDIA,
    fields={"layout": "hf"},
    epsilons=_epsilons("hf"),
)

HF5_HEAD = HF_HEAD._replace(
    name="transformers 5 SegFormer decoder",
    marks=("decode_head.linear_projections.{s}.proj.weight", "decode_head.linear_fuse.weight"),
    rules=(
        *pair("decode_head.linear_projections.{s}.proj", "head/stage{s}"),
        *(rule for rule in HF_HEAD.rules if ".linear_c." not in rule.key),
    ),
)

HF5_CLASSIFIER = HF_CLASSIFIER._replace(
    name="transformers 5 classifier",
    marks=("segformer.stages.{s}.patch_embeddings.proj.weight", "classifier.weight"),
)


def _nvlabs_rules(linear: Convert, halves: Convert) -> tuple[Rule, ...]:
    """NVlabs' names; Paddle stores linear maps the other way round."""
    kv = tuple(f"params/{BLOCK_1}attention/{part}/" for part in ("key", "value"))
    return (
        *pair("patch_embed{S}.proj", "backbone/stage{S}_embed/proj", kernel),
        *norm("patch_embed{S}.norm", "backbone/stage{S}_embed/norm"),
        *norm("block{S}.{b}.norm1", BLOCK_1 + "norm1"),
        *norm("block{S}.{b}.norm2", BLOCK_1 + "norm2"),
        *pair("block{S}.{b}.attn.q", BLOCK_1 + "attention/query", linear),
        Rule("block{S}.{b}.attn.kv.weight", tuple(x + "kernel" for x in kv), halves),
        Rule("block{S}.{b}.attn.kv.bias", tuple(x + "bias" for x in kv), vector_parts(2)),
        *pair("block{S}.{b}.attn.sr", BLOCK_1 + "attention/reduce", kernel),
        *norm("block{S}.{b}.attn.norm", BLOCK_1 + "attention/reduce_norm"),
        *pair("block{S}.{b}.attn.proj", BLOCK_1 + "attention/out", linear),
        *pair("block{S}.{b}.mlp.fc1", BLOCK_1 + "ffn/expand", linear),
        *pair("block{S}.{b}.mlp.dwconv.dwconv", BLOCK_1 + "ffn/depthwise", kernel),
        *pair("block{S}.{b}.mlp.fc2", BLOCK_1 + "ffn/project", linear),
        *norm("norm{S}", "backbone/stage{S}_norm"),
    )


NVLABS_ENCODER = Layout(
    name="NVlabs MiT",
    part=ENCODER,
    prefix="backbone.",
    marks=("patch_embed1.proj.weight", "block1.0.attn.kv.weight"),
    rules=_nvlabs_rules(dense, dense_parts(2)),
    licence="NVIDIA Source Code License: non-commercial use only",
    fields={"layout": "nvlabs"},
    epsilons=_epsilons("nvlabs"),
)

NVLABS_CLASSIFIER = Layout(
    name="NVlabs classifier",
    part=HEAD,
    marks=("patch_embed1.proj.weight", "block1.0.attn.kv.weight", "head.weight"),
    rules=pair("head", "head/classifier"),
    licence="NVIDIA Source Code License: non-commercial use only",
)

# An encoder alone has NVlabs' keys in Paddle, too; only the decoder tells where it is from.
PADDLESEG_ENCODER = NVLABS_ENCODER._replace(
    name="PaddleSeg MiT",
    marks=("block1.0.attn.kv.weight", "linear_fuse._batch_norm._mean"),
    rules=_nvlabs_rules(
        same, Convert(lambda x: tuple(np.split(x, 2, 1)), lambda *xs: np.concatenate(xs, 1))
    ),
    licence="Apache-2.0 for weights PaddleSeg trained; its ImageNet encoders are NVIDIA's, "
    "non-commercial use only",
)

PADDLESEG_HEAD = Layout(
    name="PaddleSeg SegFormer decoder",
    part=HEAD,
    marks=("linear_c1.proj.weight", "linear_fuse._batch_norm._mean"),
    rules=(
        *pair("linear_c{S}.proj", "head/stage{S}", same),
        Rule("linear_fuse._conv.weight", MIXES, mixing(COARSE_FIRST)),
        *paddle_batch_norm("linear_fuse._batch_norm", "head/norm"),
        *pair("linear_pred", "head/classifier", pointwise),
    ),
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
    fields={"stage_norm": True},
)

LAYOUTS = (
    HF_ENCODER,
    HF_HEAD,
    HF_CLASSIFIER,
    HF5_ENCODER,
    HF5_HEAD,
    HF5_CLASSIFIER,
    PADDLESEG_ENCODER,
    PADDLESEG_HEAD,
    NVLABS_ENCODER,
    NVLABS_HEAD,
    NVLABS_CLASSIFIER,
    MMSEG_ENCODER,
    MMSEG_HEAD,
)
