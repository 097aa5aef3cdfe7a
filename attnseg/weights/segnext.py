"""SegNeXt and MSCAN as its authors, mmsegmentation, PaddleSeg and the post name them."""

from __future__ import annotations

from collections.abc import Callable

from attnseg.weights.rules import (
    ENCODER,
    HEAD,
    Convert,
    Layout,
    Rule,
    batch_norm,
    dense,
    kernel,
    norm,
    paddle_batch_norm,
    pair,
    pointwise,
    same,
    weight,
)

SOURCE_BLOCK, BLOCK = "block{S}.{b}.", "backbone/stage{S}_block{b}/"
APACHE = "Apache-2.0"

# PaddleSeg's layer scale [c 1 1] -> [c].
column = Convert(lambda x: (x.reshape(-1),), lambda x: x.reshape(-1, 1, 1))


def _down(conv: str, norm_name: str, target: str, bn: Callable) -> tuple[Rule, ...]:
    """Rules for a convolution and its BatchNorm."""
    return (
        *weight(conv, f"{target}/conv"),
        Rule(f"{conv}.bias", (f"params/{target}/bias",)),
        *bn(norm_name, f"{target}/norm"),
    )


def _encoder(
    *,
    bn: Callable[[str, str], tuple[Rule, ...]],
    scale: tuple[str, Convert],
    projections: tuple[str, str],
    gate: str,
    strips: tuple[str, str, str],
    mix: str,
    ffn: str,
) -> tuple[Rule, ...]:
    """Rules of the encoder.

    bn: helper for BatchNorm; scale: name of the layer scales and how they are kept; projections,
    gate, ffn: names within a block; strips, mix: names within the gate.
    """
    source, target = SOURCE_BLOCK, BLOCK
    gate_source, gate_target = f"{source}attn.{gate}.", f"{target}attention/gate/"
    rules = [
        *_down("patch_embed1.proj.0", "patch_embed1.proj.1", "backbone/stage1_embed/down1", bn),
        *_down("patch_embed1.proj.3", "patch_embed1.proj.4", "backbone/stage1_embed/down2", bn),
        *_down("patch_embed{S}.proj", "patch_embed{S}.norm", "backbone/stage{S}_embed", bn),
        *pair(f"{source}attn.{projections[0]}", f"{target}attention/in", pointwise),
        *pair(f"{source}attn.{projections[1]}", f"{target}attention/out", pointwise),
        *pair(f"{gate_source}conv0", f"{gate_target}local", kernel),
        *pair(f"{gate_source}{mix}", f"{gate_target}mix", pointwise),
        *pair(f"{source}mlp.fc1", f"{target}ffn/expand", pointwise),
        *pair(f"{source}{ffn}", f"{target}ffn/depthwise", kernel),
        *pair(f"{source}mlp.fc2", f"{target}ffn/project", pointwise),
        *norm("norm{S}", "backbone/stage{S}_norm"),
    ]
    for side, strip in zip((7, 11, 21), strips, strict=True):
        rules += pair(f"{gate_source}{strip}_1", f"{gate_target}strip{side}/row", kernel)
        rules += pair(f"{gate_source}{strip}_2", f"{gate_target}strip{side}/column", kernel)
    for i in (1, 2):
        rules += bn(f"{source}norm{i}", f"{target}norm{i}")
        name, convert = scale
        rules.append(Rule(f"{source}{name}_{i}", (f"params/{target}layer_scale{i}",), convert))
    return tuple(rules)


_GATE_MARK = "block1.0.attn.spatial_gating_unit.conv0_1.weight"
_TORCH = dict(
    bn=batch_norm,
    scale=("layer_scale", same),
    projections=("proj_1", "proj_2"),
    gate="spatial_gating_unit",
    strips=("conv0", "conv1", "conv2"),
    mix="conv3",
)
OFFICIAL = Layout(
    name="MSCAN of its authors",
    part=ENCODER,
    prefix="backbone.",
    marks=(_GATE_MARK, "block1.0.mlp.dwconv.dwconv.weight"),
    rules=_encoder(**_TORCH, ffn="mlp.dwconv.dwconv"),
    licence=APACHE,
)
MMSEG = Layout(
    name="mmsegmentation MSCAN",
    part=ENCODER,
    prefix="backbone.",
    marks=(_GATE_MARK, "block1.0.mlp.dwconv.weight"),
    rules=_encoder(**_TORCH, ffn="mlp.dwconv"),
    licence=APACHE,
)
PADDLESEG = Layout(
    name="PaddleSeg MSCAN",
    part=ENCODER,
    prefix="backbone.",
    marks=("block1.0.attn.spatial_gating_unit.dwconvs.0.conv1_1.weight",),
    rules=_encoder(
        bn=paddle_batch_norm,
        scale=("layer_scale", column),
        projections=("proj_1", "proj_2"),
        gate="spatial_gating_unit",
        strips=("dwconvs.0.conv1", "dwconvs.1.conv2", "dwconvs.2.conv3"),
        mix="conv_out",
        ffn="mlp.dwconv",
    ),
    licence=APACHE,
)
POST = Layout(
    name="MSCAN of the SegNeXt post",
    part=ENCODER,
    prefix="backbone.",
    marks=("block1.0.attn.spatial.conv0_1.weight",),
    rules=_encoder(
        bn=paddle_batch_norm,
        scale=("layer1_scale", same),
        projections=("proj1", "proj2"),
        gate="spatial",
        strips=("conv0", "conv1", "conv2"),
        mix="conv3",
        ffn="mlp.dwconv.dwconb",
    ),
)


def _light_ham(conv: str, group_norm: str, ham_in: str) -> tuple[Rule, ...]:
    """Rules of the decoder; conv, group_norm: names within a unit."""
    return (
        *weight(f"squeeze.{conv}", "head/squeeze", pointwise),
        *norm(f"squeeze.{group_norm}", "head/squeeze/norm"),
        *pair(f"hamburger.{ham_in}", "head/hamburger/ham_in", pointwise),
        *weight(f"hamburger.ham_out.{conv}", "head/hamburger/ham_out", pointwise),
        *norm(f"hamburger.ham_out.{group_norm}", "head/hamburger/ham_out_norm"),
        *weight(f"align.{conv}", "head/align", pointwise),
        *norm(f"align.{group_norm}", "head/align_norm"),
        *pair("conv_seg", "head/classifier", pointwise),
    )


LIGHT_HAM = Layout(
    name="Light Hamburger of the authors and of mmsegmentation",
    part=HEAD,
    prefix="decode_head.",
    marks=("hamburger.ham_in.conv.weight",),
    rules=_light_ham("conv", "gn", "ham_in.conv"),
    licence=APACHE,
)
PADDLESEG_LIGHT_HAM = Layout(
    name="PaddleSeg Light Hamburger",
    part=HEAD,
    prefix="decode_head.",
    marks=("hamburger.ham_in.weight",),
    rules=_light_ham("_conv", "_group_norm", "ham_in"),
    licence=APACHE,
)
CLASSIFIER = Layout(
    name="MSCAN classifier",
    part=HEAD,
    marks=("head.weight", _GATE_MARK),
    rules=pair("head", "head/classifier", dense),
    licence=APACHE,
)

LAYOUTS = (OFFICIAL, MMSEG, PADDLESEG, POST, LIGHT_HAM, PADDLESEG_LIGHT_HAM, CLASSIFIER)
