"""SegFormer and MiT as Hugging Face, NVlabs and mmsegmentation name them: one table each."""

from __future__ import annotations

import re

from attnseg.models.backbones.mit import EPSILONS, Epsilons
from attnseg.weights.rules import (
    Layout,
    Rule,
    dense,
    dense_parts,
    kernel,
    mixing,
    vector_parts,
)

BLOCK = "params/backbone/stage{s}_block{b}/"
STAGES = ("stage1", "stage2", "stage3", "stage4")
COARSE_FIRST, FINE_FIRST = (3, 2, 1, 0), (0, 1, 2, 3)

_EPSILON_PLACES = (
    (r"_embed/norm/scale$", "embed"),
    (r"/reduce_norm/scale$", "reduction"),
    (r"_block\d+/norm\d/scale$", "block"),
    (r"stage\d_norm/scale$", "stage"),
)


def _pair(source: str, target: str, convert=dense) -> list[Rule]:
    """Rules for ``SOURCE.weight`` and ``SOURCE.bias``."""
    return [
        Rule(rf"{source}\.weight", (f"{target}/kernel",), convert),
        Rule(rf"{source}\.bias", (f"{target}/bias",)),
    ]


def _norm(source: str, target: str) -> list[Rule]:
    return [
        Rule(rf"{source}\.weight", (f"{target}/scale",)),
        Rule(rf"{source}\.bias", (f"{target}/bias",)),
    ]


def _batch_norm(source: str, target: str) -> list[Rule]:
    return [
        *_norm(source, f"params/{target}"),
        Rule(rf"{source}\.running_mean", (f"batch_stats/{target}/mean",)),
        Rule(rf"{source}\.running_var", (f"batch_stats/{target}/var",)),
        Rule(rf"{source}\.num_batches_tracked"),
    ]


def _stacked(source: str, parts: tuple[str, ...], weight: str, bias: str) -> list[Rule]:
    """Linear maps stacked in one entry."""
    count = len(parts)
    return [
        Rule(source + weight, tuple(f"{p}/kernel" for p in parts), dense_parts(count)),
        Rule(source + bias, tuple(f"{p}/bias" for p in parts), vector_parts(count)),
    ]


def _constants(epsilons: Epsilons):
    """Epsilon of every LayerNorm of the backbone, by the name of its scale."""

    def of(names: list[str]) -> dict[str, float]:
        found = {}
        for name in names:
            for pattern, place in _EPSILON_PLACES:
                if name.startswith("params/backbone/") and re.search(pattern, name):
                    module = name.removeprefix("params/").removesuffix("/scale")
                    found[f"constants/{module}/epsilon"] = getattr(epsilons, place)
        return found

    return of


_HF = r"(?:segformer\.)?encoder\."
_HF_BLOCK = _HF + r"block\.(?P<s>\d+)\.(?P<b>\d+)\."
HF = Layout(
    name="Hugging Face SegFormer",
    marks=(r"encoder\.patch_embeddings\.0\.proj\.weight$",),
    rules=(
        *_pair(
            _HF + r"patch_embeddings\.(?P<s>\d+)\.proj",
            "params/backbone/stage{s}_embed/proj",
            kernel,
        ),
        *_norm(
            _HF + r"patch_embeddings\.(?P<s>\d+)\.layer_norm",
            "params/backbone/stage{s}_embed/norm",
        ),
        *_norm(_HF_BLOCK + r"layer_norm_1", BLOCK + "norm1"),
        *_norm(_HF_BLOCK + r"layer_norm_2", BLOCK + "norm2"),
        *_pair(_HF_BLOCK + r"attention\.self\.query", BLOCK + "attention/query"),
        *_pair(_HF_BLOCK + r"attention\.self\.key", BLOCK + "attention/key"),
        *_pair(_HF_BLOCK + r"attention\.self\.value", BLOCK + "attention/value"),
        *_pair(_HF_BLOCK + r"attention\.self\.sr", BLOCK + "attention/reduce", kernel),
        *_norm(_HF_BLOCK + r"attention\.self\.layer_norm", BLOCK + "attention/reduce_norm"),
        *_pair(_HF_BLOCK + r"attention\.output\.dense", BLOCK + "attention/out"),
        *_pair(_HF_BLOCK + r"mlp\.dense1", BLOCK + "ffn/expand"),
        *_pair(_HF_BLOCK + r"mlp\.dwconv\.dwconv", BLOCK + "ffn/depthwise", kernel),
        *_pair(_HF_BLOCK + r"mlp\.dense2", BLOCK + "ffn/project"),
        *_norm(_HF + r"layer_norm\.(?P<s>\d+)", "params/backbone/stage{s}_norm"),
        *_pair(r"decode_head\.linear_c\.(?P<s>\d+)\.proj", "params/head/stage{s}"),
        Rule(
            r"decode_head\.linear_fuse\.weight",
            tuple(f"params/head/{stage}/mix" for stage in STAGES),
            mixing(COARSE_FIRST),
        ),
        *_batch_norm(r"decode_head\.batch_norm", "head/norm"),
        *_pair(r"decode_head\.classifier", "params/head/classifier"),
        *_pair(r"classifier", "params/head/classifier"),
    ),
    licence="NVIDIA Source Code License for the weights NVIDIA published: non-commercial use only",
    fields={"layout": "hf"},
    constants=_constants(EPSILONS["hf"]),
)

_NV = r"(?:backbone\.)?"
_NV_BLOCK = _NV + r"block(?P<S>\d)\.(?P<b>\d+)\."
_NV_TARGET = "params/backbone/stage{S}_block{b}/"
NVLABS = Layout(
    name="NVlabs SegFormer",
    marks=(r"^(backbone\.)?patch_embed1\.proj\.weight$", r"block1\.0\.attn\.kv\.weight$"),
    rules=(
        *_pair(_NV + r"patch_embed(?P<S>\d)\.proj", "params/backbone/stage{S}_embed/proj", kernel),
        *_norm(_NV + r"patch_embed(?P<S>\d)\.norm", "params/backbone/stage{S}_embed/norm"),
        *_norm(_NV_BLOCK + r"norm1", _NV_TARGET + "norm1"),
        *_norm(_NV_BLOCK + r"norm2", _NV_TARGET + "norm2"),
        *_pair(_NV_BLOCK + r"attn\.q", _NV_TARGET + "attention/query"),
        *_stacked(
            _NV_BLOCK + r"attn\.kv\.",
            (_NV_TARGET + "attention/key", _NV_TARGET + "attention/value"),
            "weight",
            "bias",
        ),
        *_pair(_NV_BLOCK + r"attn\.sr", _NV_TARGET + "attention/reduce", kernel),
        *_norm(_NV_BLOCK + r"attn\.norm", _NV_TARGET + "attention/reduce_norm"),
        *_pair(_NV_BLOCK + r"attn\.proj", _NV_TARGET + "attention/out"),
        *_pair(_NV_BLOCK + r"mlp\.fc1", _NV_TARGET + "ffn/expand"),
        *_pair(_NV_BLOCK + r"mlp\.dwconv\.dwconv", _NV_TARGET + "ffn/depthwise", kernel),
        *_pair(_NV_BLOCK + r"mlp\.fc2", _NV_TARGET + "ffn/project"),
        *_norm(_NV + r"norm(?P<S>\d)", "params/backbone/stage{S}_norm"),
        *_pair(r"decode_head\.linear_c(?P<S>\d)\.proj", "params/head/stage{S}"),
        Rule(
            r"decode_head\.linear_fuse\.conv\.weight",
            tuple(f"params/head/{stage}/mix" for stage in STAGES),
            mixing(COARSE_FIRST),
        ),
        *_batch_norm(r"decode_head\.linear_fuse\.bn", "head/norm"),
        *_pair(r"decode_head\.linear_pred", "params/head/classifier"),
        Rule(r"decode_head\.conv_seg\.(weight|bias)"),  # registered upstream, never used
        *_pair(r"head", "params/head/classifier"),
    ),
    licence="NVIDIA Source Code License: non-commercial use only",
    fields={"layout": "nvlabs"},
    constants=_constants(EPSILONS["nvlabs"]),
)

_MM = r"(?:backbone\.)?layers\.(?P<s>\d)\."
_MM_BLOCK = _MM + r"1\.(?P<b>\d+)\."
MMSEG = Layout(
    name="mmsegmentation SegFormer",
    marks=(r"layers\.0\.0\.projection\.weight$", r"attn\.attn\.in_proj_weight$"),
    rules=(
        *_pair(_MM + r"0\.projection", "params/backbone/stage{s}_embed/proj", kernel),
        *_norm(_MM + r"0\.norm", "params/backbone/stage{s}_embed/norm"),
        *_norm(_MM_BLOCK + r"norm1", BLOCK + "norm1"),
        *_norm(_MM_BLOCK + r"norm2", BLOCK + "norm2"),
        *_stacked(
            _MM_BLOCK + r"attn\.attn\.in_proj_",
            tuple(BLOCK + f"attention/{part}" for part in ("query", "key", "value")),
            "weight",
            "bias",
        ),
        *_pair(_MM_BLOCK + r"attn\.attn\.out_proj", BLOCK + "attention/out"),
        *_pair(_MM_BLOCK + r"attn\.sr", BLOCK + "attention/reduce", kernel),
        *_norm(_MM_BLOCK + r"attn\.norm", BLOCK + "attention/reduce_norm"),
        *_pair(_MM_BLOCK + r"ffn\.layers\.0", BLOCK + "ffn/expand"),
        *_pair(_MM_BLOCK + r"ffn\.layers\.1", BLOCK + "ffn/depthwise", kernel),
        *_pair(_MM_BLOCK + r"ffn\.layers\.4", BLOCK + "ffn/project"),
        *_norm(_MM + r"2", "params/backbone/stage{s}_norm"),
        Rule(
            r"decode_head\.convs\.(?P<s>\d)\.conv\.weight",
            ("params/head/stage{s}/proj/kernel",),
            dense,
        ),
        *_batch_norm(r"decode_head\.convs\.(?P<s>\d)\.bn", "head/stage{s}/norm"),
        Rule(
            r"decode_head\.fusion_conv\.conv\.weight",
            tuple(f"params/head/{stage}/mix" for stage in STAGES),
            mixing(FINE_FIRST),
        ),
        *_batch_norm(r"decode_head\.fusion_conv\.bn", "head/norm"),
        *_pair(r"decode_head\.conv_seg", "params/head/classifier"),
    ),
    licence="Apache-2.0 for weights mmsegmentation trained; its ImageNet encoders are NVIDIA's, "
    "non-commercial use only",
    fields={"layout": "mmseg"},
    constants=_constants(EPSILONS["mmseg"]),
)

LAYOUTS = (HF, NVLABS, MMSEG)
