"""ResNet as torchvision, timm and mmsegmentation name it."""

from __future__ import annotations

from attnseg.weights.rules import ENCODER, HEAD, Layout, Rule, batch_norm, kernel, pair, weight

BLOCK = "layer{S}.{b}."
TARGET = "backbone/stage{S}_block{b}/"
TORCHVISION_LICENCE = "BSD-3-Clause for torchvision's weights, Apache-2.0 for timm's and mmseg's"

PLAIN_STEM = (*weight("conv1", "backbone/stem/conv1"), *batch_norm("bn1", "backbone/stem/norm1"))


def _deep_stem(convs: tuple[str, ...], norms: tuple[str, ...]) -> tuple[Rule, ...]:
    rules = []
    for i, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
        rules += weight(conv, f"backbone/stem/conv{i}")
        rules += batch_norm(norm, f"backbone/stem/norm{i}")
    return tuple(rules)


MMSEG_STEM = _deep_stem(("stem.0", "stem.3", "stem.6"), ("stem.1", "stem.4", "stem.7"))
TIMM_STEM = _deep_stem(("conv1.0", "conv1.3", "conv1.6"), ("conv1.1", "conv1.4", "bn1"))
BODY = (
    Rule(BLOCK + "conv{K}.weight", (f"params/{TARGET}conv{{K}}/kernel",), kernel),
    *batch_norm(BLOCK + "bn{K}", TARGET + "norm{K}"),
)


def shortcut(conv: int) -> tuple[Rule, ...]:
    """The projection; average pooling, where there is one, comes before it and shifts it."""
    return (
        *weight(f"{BLOCK}downsample.{conv}", TARGET + "shortcut/conv"),
        *batch_norm(f"{BLOCK}downsample.{conv + 1}", TARGET + "shortcut/norm"),
    )


def _layout(name: str, stem: tuple[Rule, ...], pooled: bool) -> Layout:
    conv = int(pooled)
    return Layout(
        name=name,
        part=ENCODER,
        marks=(stem[0].key, "layer1.0.conv1.weight", f"layer2.0.downsample.{conv + 1}.running_var"),
        rules=(*stem, *BODY, *shortcut(conv)),
        prefix="backbone.",
        licence=TORCHVISION_LICENCE,
        # Another kind of network may have the same names, or some of them.
        fields={"stem": "plain" if stem is PLAIN_STEM else "deep", "pooled_shortcut": pooled},
    )


CLASSIFIER = Layout(
    name="torchvision classifier",
    part=HEAD,
    marks=("layer1.0.conv1.weight", "fc.weight"),
    rules=pair("fc", "head/classifier"),
    licence=TORCHVISION_LICENCE,
)

LAYOUTS = (
    _layout("torchvision ResNet", PLAIN_STEM, pooled=False),
    _layout("mmseg ResNet-C", MMSEG_STEM, pooled=False),
    _layout("mmseg ResNet-D", MMSEG_STEM, pooled=True),
    _layout("timm ResNet-C", TIMM_STEM, pooled=False),
    _layout("timm ResNet-D", TIMM_STEM, pooled=True),
    CLASSIFIER,
)
