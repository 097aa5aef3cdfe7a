"""The one table of model names."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from attnseg.core.errors import check, did_you_mean, lookup
from attnseg.models.assembled import Classifier, Segmenter
from attnseg.models.backbones import botnet, conv2former, mit, mscan, resnet, swin
from attnseg.models.heads.aspp import ASPPHead
from attnseg.models.heads.conv2former import Conv2FormerHead
from attnseg.models.heads.danet import DANetHead
from attnseg.models.heads.emanet import EMANetHead
from attnseg.models.heads.fcn import FCNHead
from attnseg.models.heads.light_ham import LightHamHead
from attnseg.models.heads.linear import LinearHead
from attnseg.models.heads.non_local import NonLocalHead
from attnseg.models.heads.psp import PSPHead
from attnseg.models.heads.rcca import RCCAHead
from attnseg.models.heads.segformer import SegFormerHead
from attnseg.models.heads.upernet import UPerNetHead

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Part(NamedTuple):
    """A module class and the fields that make it the published one."""

    cls: type[nn.Module]
    fields: dict[str, Any]


class Spec(NamedTuple):
    """A named model: its task and its parts."""

    task: str  # segmentation | classification
    backbone: Part
    head: Part
    aux: bool = False  # whether it is published with an auxiliary head


_FAMILIES = (
    (mit.MiT, mit.SIZES),
    (mscan.MSCAN, mscan.SIZES),
    (resnet.ResNet, resnet.SIZES),
    (botnet.BoTNet, botnet.SIZES),
    (conv2former.Conv2Former, conv2former.SIZES),
    (swin.Swin, swin.SIZES),
)
BACKBONES = {name: Part(cls, size) for cls, sizes in _FAMILIES for name, size in sizes.items()}
# ResNet-C, with output stride 8 where a decoder sees nothing but the last stages.
BACKBONES |= {
    f"{name}{suffix}": Part(resnet.ResNet, dict(size, stem="deep", dilation=dilation))
    for suffix, dilation in (("c", "os32"), ("c_d8", "os8"))
    for name, size in resnet.SIZES.items()
}
# Fields of a backbone whose stages all feed a decoder.
_DENSE = {swin.Swin: {"norms": "all"}, conv2former.Conv2Former: {"norms": "all"}}

HEADS = {
    "segformer": Part(SegFormerHead, {}),
    "light_ham": Part(LightHamHead, {}),
    "rcca": Part(RCCAHead, {}),
    "fcn": Part(FCNHead, {}),
    "psp": Part(PSPHead, {}),
    "aspp": Part(ASPPHead, {}),
    "danet": Part(DANetHead, {}),
    "emanet": Part(EMANetHead, {}),
    "nonlocal": Part(NonLocalHead, {}),
    "upernet": Part(UPerNetHead, {}),
    "linear": Part(LinearHead, {}),
}
# One convolution on the last stage but one, whose loss helps training.
AUX_HEAD = Part(FCNHead, {"width": 256, "convs": 1, "concat": False, "stage": -2})


def _dense(backbone: str) -> Part:
    part = BACKBONES[backbone]
    return part._replace(fields={**part.fields, **_DENSE.get(part.cls, {})})


def _segmenter(backbone: str, head: str, aux: bool = False, **fields: Any) -> Spec:
    return Spec("segmentation", _dense(backbone), Part(HEADS[head].cls, fields), aux)


# Width of the factorised map and number of its bases, by size.
_HAMS = {"t": (256, 16), "s": (256, 16), "b": (512, 64), "l": (1024, 64)}
_ON_RESNETS = {
    "ccnet": "rcca",
    "fcn": "fcn",
    "pspnet": "psp",
    "deeplabv3plus": "aspp",
    "danet": "danet",
    "emanet": "emanet",
    "nonlocal": "nonlocal",
}
MODELS: dict[str, Spec] = {
    # Decoder width of the released networks: 256 for B0 and B1, 768 above.
    **{
        f"segformer_b{i}": _segmenter(f"mit_b{i}", "segformer", width=256 if i < 2 else 768)
        for i in range(6)
    },
    **{
        f"segnext_{size}": _segmenter(f"mscan_{size}", "light_ham", width=width, rank=rank)
        for size, (width, rank) in _HAMS.items()
    },
    **{
        f"{name}_r{depth}": _segmenter(f"resnet{depth}c_d8", head, aux=True)
        for name, head in _ON_RESNETS.items()
        for depth in (50, 101)
    },
    **{
        f"upernet_{name}": _segmenter(backbone, "upernet", aux=True)
        for name, backbone in (("r50", "resnet50c"), ("r101", "resnet101c"), ("swin_t", "swin_t"))
    },
    # The backbones as classifiers.
    **{name: Spec("classification", part, HEADS["linear"]) for name, part in BACKBONES.items()},
    **{
        name: Spec("classification", BACKBONES[name], Part(Conv2FormerHead, {}))
        for name in conv2former.SIZES
        if name != "conv2former_n_cifar"
    },
}

# Fields that create_model sets itself.
_GIVEN = ("parent", "name", "num_classes", "dtype")


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows and that fit a shell pattern, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def find_spec(name: str) -> Spec:
    """Looks up a name of the table or puts together ``BACKBONE+HEAD``.

    Raises:
      UserError: unknown name; the message has the nearest one.
    """
    if "+" in name:
        backbone, _, head = name.partition("+")
        part = lookup(BACKBONES, backbone, "backbone")
        lookup(HEADS, head, "head")
        if head == "linear":
            return Spec("classification", part, HEADS[head])
        return _segmenter(backbone, head)
    return lookup(MODELS, name, "model")


def part_fields(part: Part) -> dict[str, Any]:
    """All settable fields of a part with the values it is published with."""
    fields = {
        f.name: f.default
        for f in dataclasses.fields(part.cls)
        if f.name not in _GIVEN and f.default is not dataclasses.MISSING
    }
    return {**fields, **part.fields}


def _build(part: Part, overrides: dict[str, Any], what: str, **given: Any) -> nn.Module:
    known = part_fields(part)
    for key in overrides:
        check(
            key in known,
            f'unknown field "{key}" of {what} {part.cls.__name__}.{did_you_mean(key, known)} '
            f"Fields: {', '.join(known)}.",
        )
    # Lists come from JSON and command lines; linen fields must be hashable.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    return part.cls(**{**part.fields, **values, **given})


def create_model(
    name: str,
    num_classes: int,
    *,
    backbone: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    aux_head: dict[str, Any] | bool | None = None,
    dtype: str = "float32",
) -> nn.Module:
    """Builds a model by name.

    Args:
      name: one of `list_models()`, or ``BACKBONE+HEAD``.
      num_classes: classes k of the logits.
      backbone, head: fields that differ from the published network, e.g.
        ``backbone=dict(widths=(8, 16, 24, 32))``.
      aux_head: None: an auxiliary FCN head where the published network has one; False: none;
        True or its fields that differ: one for any segmentation network.
      dtype: of the computation, "float32" or "bfloat16"; parameters, statistics, softmax and
        logits are float32 always.

    Returns:
      A linen module: ``model.init(key, images, train=False)`` and
      ``model.apply(variables, images, train=False)["logits"]`` with images [n h w 3].

    Raises:
      UserError: unknown name, field or dtype.
    """
    spec = find_spec(name)
    check(num_classes >= 1, f"num_classes is {num_classes}; at least 1 is needed.")
    compute = lookup(DTYPES, str(dtype), "dtype")
    compute = None if compute == jnp.float32 else compute
    given = dict(num_classes=num_classes, dtype=compute)
    parts = {
        "backbone": _build(spec.backbone, backbone or {}, "backbone", dtype=compute),
        "head": _build(spec.head, head or {}, "head", **given),
    }
    aux = spec.aux if aux_head is None else aux_head is not False
    if spec.task == "classification":
        check(not aux, f"{name} is a classifier, which has no aux_head.")
        return Classifier(**parts)
    if aux:
        fields = aux_head if isinstance(aux_head, dict) else {}
        parts["aux_head"] = _build(AUX_HEAD, fields, "aux_head", **given)
    return Segmenter(**parts)
