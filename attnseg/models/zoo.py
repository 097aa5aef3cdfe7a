"""The one table of model names."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from attnseg.core.errors import check, did_you_mean, lookup
from attnseg.models.assembled import Classifier, Segmenter
from attnseg.models.backbones import mit
from attnseg.models.heads.linear import LinearHead
from attnseg.models.heads.segformer import SegFormerHead

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


BACKBONES = {name: Part(mit.MiT, size) for name, size in mit.SIZES.items()}
HEADS = {"segformer": Part(SegFormerHead, {}), "linear": Part(LinearHead, {})}

# Decoder width of the released networks: 256 for B0 and B1, 768 above.
_SEGFORMERS = {
    f"segformer_b{i}": Spec(
        "segmentation",
        BACKBONES[f"mit_b{i}"],
        Part(SegFormerHead, {"width": 256 if i < 2 else 768}),
    )
    for i in range(6)
}
_CLASSIFIERS = {
    name: Spec("classification", backbone, HEADS["linear"]) for name, backbone in BACKBONES.items()
}
MODELS: dict[str, Spec] = {**_SEGFORMERS, **_CLASSIFIERS}

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
        task = "classification" if head == "linear" else "segmentation"
        return Spec(task, lookup(BACKBONES, backbone, "backbone"), lookup(HEADS, head, "head"))
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
    dtype: str = "float32",
) -> nn.Module:
    """Builds a model by name.

    Args:
      name: one of `list_models()`, or ``BACKBONE+HEAD``.
      num_classes: classes k of the logits.
      backbone, head: fields that differ from the published network, e.g.
        ``backbone=dict(widths=(8, 16, 24, 32))``.
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
    parts = {
        "backbone": _build(spec.backbone, backbone or {}, "backbone", dtype=compute),
        "head": _build(spec.head, head or {}, "head", num_classes=num_classes, dtype=compute),
    }
    return Segmenter(**parts) if spec.task == "segmentation" else Classifier(**parts)
