"""Swin as timm, its authors and mmsegmentation name it.

They differ in where a merging belongs (to the stage it leads to, or to the one it leaves), in how
four neighbouring pixels are lined up, and in the norms: one behind the last stage (classifiers)
or one behind each (dense tasks).
"""

from __future__ import annotations

import numpy as np

from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    kernel,
    norm,
    pair,
    stacked,
)

MERGINGS = range(1, 4)  # stages that begin with one, counted from 0


def _swapped(x: np.ndarray) -> np.ndarray:
    """Pixels of a 2x2 patch, [4c ...], from column by column to row by row or back."""
    return x.reshape(2, 2, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _pixels_first(x: np.ndarray) -> np.ndarray:
    """[c*4 ...] -> [4*c ...]."""
    return x.reshape(-1, 4, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _channels_first(x: np.ndarray) -> np.ndarray:
    """[4*c ...] -> [c*4 ...]."""
    return x.reshape(4, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


# Ours: row by row, channels innermost. timm and the authors: column by column.
by_columns = Convert(lambda x: (_swapped(x),), _swapped)
by_columns_dense = Convert(lambda x: (_swapped(x.T),), lambda x: _swapped(x).T)
# mmsegmentation (torch's unfold): row by row, channels outermost.
unfolded = Convert(lambda x: (_pixels_first(x),), _channels_first)
unfolded_dense = Convert(lambda x: (_pixels_first(x.T),), lambda x: _channels_first(x).T)


def _merging(source: str, stage: int, vector: Convert, matrix: Convert) -> tuple[Rule, ...]:
    target = f"params/backbone/stage{stage}_merge"
    return (
        Rule(f"{source}.norm.weight", (f"{target}/norm/scale",), vector),
        Rule(f"{source}.norm.bias", (f"{target}/norm/bias",), vector),
        Rule(f"{source}.reduction.weight", (f"{target}/proj/kernel",), matrix),
    )


def _block(source: str, attention: str, expand: str, project: str) -> tuple[Rule, ...]:
    target = "backbone/stage{s}_block{b}"
    parts = tuple(f"{target}/attention/{part}" for part in ("query", "key", "value"))
    return (
        *norm(f"{source}.norm1", f"{target}/norm1"),
        Rule(
            f"{source}.{attention}.relative_position_bias_table",
            (f"params/{target}/attention/relative_bias",),
        ),
        *stacked(f"{source}.{attention}.qkv", parts, ".weight", ".bias"),
        *pair(f"{source}.{attention}.proj", f"{target}/attention/out"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *pair(f"{source}.{expand}", f"{target}/ffn/expand"),
        *pair(f"{source}.{project}", f"{target}/ffn/project"),
        # Buffers of older files; they follow from the sizes.
        Rule(f"{source}.{attention}.relative_position_index"),
        Rule(f"{source}.attn_mask"),
    )


_STAGE_NORMS = norm("norm{s}", "backbone/stage{s}_norm")
_LAST_NORM = norm("norm", "backbone/stage4_norm")

_TIMM_MARK = "layers.3.downsample.reduction.weight"
_COMMON = (
    *pair("patch_embed.proj", "backbone/embed/proj", kernel),
    *norm("patch_embed.norm", "backbone/embed/norm"),
    *_block("layers.{s}.blocks.{b}", "attn", "mlp.fc1", "mlp.fc2"),
)
TIMM = Layout(
    name="timm Swin",
    part=ENCODER,
    marks=(_TIMM_MARK,),
    rules=(
        *_COMMON,
        *(
            rule
            for s in MERGINGS
            for rule in _merging(f"layers.{s}.downsample", s + 1, by_columns, by_columns_dense)
        ),
        *_LAST_NORM,
    ),
    licence="MIT",
)
TIMM_HEAD = Layout(
    name="timm Swin classifier",
    part=HEAD,
    marks=(_TIMM_MARK, "head.fc.weight"),
    rules=pair("head.fc", "head/classifier"),
    licence="MIT",
)

_MICROSOFT_MARK = "layers.0.downsample.reduction.weight"
_MICROSOFT = (
    *_COMMON,
    *(
        rule
        for s in MERGINGS
        for rule in _merging(f"layers.{s - 1}.downsample", s + 1, by_columns, by_columns_dense)
    ),
)
MICROSOFT = Layout(
    name="Microsoft Swin",
    part=ENCODER,
    marks=(_MICROSOFT_MARK, "norm.weight"),
    rules=(*_MICROSOFT, *_LAST_NORM),
    licence="MIT",
)
MICROSOFT_HEAD = Layout(
    name="Microsoft Swin classifier",
    part=HEAD,
    marks=(_MICROSOFT_MARK, "head.weight"),
    rules=pair("head", "head/classifier"),
    licence="MIT",
)
MICROSOFT_DENSE = Layout(
    name="Microsoft Swin for dense tasks",
    part=ENCODER,
    marks=(_MICROSOFT_MARK, "norm0.weight"),
    rules=(*_MICROSOFT, *_STAGE_NORMS),
    prefix="backbone.",
    licence="MIT",
)

_MMSEG_MARK = "stages.0.downsample.reduction.weight"
_MMSEG = (
    *pair("patch_embed.projection", "backbone/embed/proj", kernel),
    *norm("patch_embed.norm", "backbone/embed/norm"),
    *_block("stages.{s}.blocks.{b}", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1"),
    *(
        rule
        for s in MERGINGS
        for rule in _merging(f"stages.{s - 1}.downsample", s + 1, unfolded, unfolded_dense)
    ),
)
MMSEG = Layout(
    name="mmsegmentation Swin",
    part=ENCODER,
    marks=(_MMSEG_MARK, "norm0.weight"),
    rules=(*_MMSEG, *_STAGE_NORMS),
    prefix="backbone.",
    licence="Apache-2.0",
)
# As mmsegmentation's converter leaves a classifier's file.
MMSEG_PRETRAINED = Layout(
    name="mmsegmentation Swin, pretrained",
    part=ENCODER,
    marks=(_MMSEG_MARK, "norm.weight"),
    rules=(*_MMSEG, *_LAST_NORM),
    licence="Apache-2.0",
)

LAYOUTS = (
    TIMM,
    TIMM_HEAD,
    MICROSOFT,
    MICROSOFT_HEAD,
    MICROSOFT_DENSE,
    MMSEG,
    MMSEG_PRETRAINED,
)
