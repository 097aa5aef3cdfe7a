"""Loading published weights: recognised by their keys, checked together, reported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.tree import flat, nested
from attnseg.models.assembled import Classifier
from attnseg.weights import (
    botnet,
    ccnet,
    conv2former,
    mmseg_heads,
    resnet,
    segformer,
    segnext,
    swin,
)
from attnseg.weights.read import read_state
from attnseg.weights.rules import ENCODER, HEAD, Layout, recognise, translate

LAYOUTS: tuple[Layout, ...] = (
    *segformer.LAYOUTS,
    *segnext.LAYOUTS,
    *ccnet.LAYOUTS,
    *botnet.LAYOUTS,
    *conv2former.LAYOUTS,
    *swin.LAYOUTS,
    *resnet.LAYOUTS,  # its marks also fit files of CCNet and BoTNet
    *mmseg_heads.LAYOUTS,  # its FCN has no mark of its own
)
ENCODER_SHARE = 0.95  # of the encoder's parameters that a file must fill
IMAGE_SIZE = (64, 64)  # on which variables are made where no size is given

_SHAPE = "shape "  # how the reason of an array that does not fit begins

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a weight file.

    Attributes:
      layout: names of the formats of the parts, encoder and decoder.
      licence: of the weights usually found in them.
      loaded: names that were filled.
      skipped: name -> why it was not filled; it keeps its initial value.
      unused: names the file has and the model has not.
      images: how the source prepares images, if not by ImageNet's normalisation of RGB.
      fields: part of the model -> fields that the format implies.
      model: the model with the fields this format implies. Only LayerNorm epsilons can differ
        from the model that was passed in, and those travel with the variables.
    """

    layout: str
    licence: str
    loaded: tuple[str, ...]
    skipped: dict[str, str]
    unused: tuple[str, ...]
    fields: dict[str, dict[str, Any]]
    images: str
    model: nn.Module

    def summary(self) -> str:
        """The report in a few lines."""
        lines = [f"{self.layout}: {len(self.loaded)} arrays loaded. Licence: {self.licence}."]
        lines += [f"  wants images: {self.images}"] if self.images else []
        lines += [f"  not loaded: {name} ({why})" for name, why in self.skipped.items()]
        lines += [f"  not used: {name}" for name in self.unused]
        return "\n".join(lines)


def _first(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _part(name: str) -> str:
    """Part of the model that "params/PART/..." belongs to."""
    return name.split("/")[1]


def _check_encoder(
    expected: dict[str, Any], skipped: dict[str, str], unused: list[str], layout: str
) -> None:
    size = {n: int(np.prod(x.shape)) for n, x in expected.items() if _part(n) == ENCODER}
    missing = [n for n in skipped if _part(n) == ENCODER]
    misshapen = [n for n in missing if skipped[n].startswith(_SHAPE)]
    share = 1.0 - sum(size[n] for n in missing) / max(sum(size.values()), 1)
    extra = [n for n in unused if _part(n) == ENCODER]
    check(
        share >= ENCODER_SHARE and not extra and not misshapen,
        f"these {layout} weights are of another network: they fill {share:.0%} of the "
        f"encoder. Not filled: {_first([f'{n} ({skipped[n]})' for n in missing]) or 'nothing'}. "
        f"Not in the model: {_first(extra) or 'nothing'}. "
        "Create the model of the same size, or pass allow_partial=True.",
    )


def _implied(model: nn.Module, layouts: list[Layout]) -> tuple[nn.Module, dict[str, Any]]:
    """The model with the fields that the formats imply, and those fields by part."""
    fields: dict[str, Any] = {}
    for layout in layouts:
        part = getattr(model, layout.part, None)
        known = {k: v for k, v in layout.fields.items() if hasattr(part, k)}
        if known:
            fields[layout.part] = known
    parts = {part: getattr(model, part).clone(**known) for part, known in fields.items()}
    return model.clone(**parts), fields


def _check_fields(model: nn.Module, layouts: list[Layout], name: str) -> None:
    """Refuses a network that would take these weights and compute something else with them.

    LayerNorm epsilons are no reason: they travel with the weights.
    """
    differing = {}
    for layout in layouts:
        part = getattr(model, layout.part, None)
        fields = {} if layout.epsilons else layout.fields
        differ = {k: v for k, v in fields.items() if getattr(part, k, v) != v}
        if differ:
            differing[layout.part] = differ
    calls = (
        f"{part}=dict({', '.join(f'{k}={v!r}' for k, v in fields.items())})"
        for part, fields in differing.items()
    )
    check(
        not differing,
        f"{name}: these weights are of a network with other fields; create the model with "
        f"{', '.join(calls)}, or pass allow_partial=True.",
    )


def epsilons_of(layouts: list[Layout], names: list[str]) -> dict[str, float]:
    """``{"constants/MODULE/epsilon": value}`` for the LayerNorms the formats know."""
    found: dict[str, float] = {}
    for layout in layouts:
        for name in names:
            if not name.startswith(f"params/{layout.part}/"):
                continue
            for pattern, value in layout.epsilons:
                if re.search(pattern, name):
                    module = name.removeprefix("params/").removesuffix("/scale")
                    found[f"constants/{module}/epsilon"] = value
                    break
    return found


def _fit_tables(
    translated: dict[str, Any], expected: dict[str, Any], layouts: list[Layout], keep: bool
) -> None:
    """Interpolates position tables of other grids, or expects them as they are (`keep`)."""
    for name, table in translated.items():
        for pattern, resize in (t for layout in layouts for t in layout.tables):
            wanted = expected.get(name)
            if wanted is None or not re.search(pattern, name) or table.shape == wanted.shape:
                continue
            if table.shape[1:] != wanted.shape[1:]:
                continue  # of other heads: reported as skipped
            if keep:
                expected[name] = jax.ShapeDtypeStruct(table.shape, wanted.dtype)
            else:
                translated[name] = np.asarray(resize(table, wanted.shape[0]))


def _initial(initialise: Callable[[], Variables], names: list[str]) -> dict[str, jax.Array]:
    """Initial values of some variables; compiling only those is much quicker."""

    def some() -> dict[str, jax.Array]:
        variables = flat(initialise())
        return {name: variables[name] for name in names}

    return jax.jit(some)()


def _recognised(state: Mapping[str, Any], model: nn.Module) -> list[Layout]:
    """The formats of a state dict's parts."""
    # The classifier of ImageNet is no decoder, even where its shape would fit.
    known = [x for x in LAYOUTS if "classifier" not in x.name or isinstance(model, Classifier)]
    layouts = recognise(state, known)
    if layouts and not isinstance(model, Classifier):
        classifiers = [x for x in LAYOUTS if "classifier" in x.name]
        ignored = [
            layout._replace(rules=tuple(rule._replace(targets=()) for rule in layout.rules))
            for layout in recognise(state, classifiers)
        ]
        layouts += [] if any(x.part == HEAD for x in layouts) else ignored
    if not layouts:
        raise UserError(
            f"these weights are of no known format (keys like {_first(sorted(state), 3)}); known "
            "are those of SegFormer, SegNeXt, CCNet, BoTNet, Conv2Former, Swin and ResNet in the "
            "formats that the README lists."
        )
    return layouts


def implied_fields(model: nn.Module, source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Part of the model -> fields that the format of a weight file implies for it.

    Raises:
      UserError: unreadable or unknown file.
    """
    return _implied(model, _recognised(read_state(source), model))[1]


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    variables: Variables | None = None,
    allow_partial: bool = False,
) -> tuple[Variables, Report]:
    """Fills the variables of `model` from a weight file of any known format.

    Args:
      model: from `attnseg.create_model`.
      source: a .safetensors, .npz, torch or .pdparams file, or a state dict in memory.
      image_size: (h, w) that position tables are interpolated to; None keeps the file's, which
        are interpolated whenever the model runs.
      variables: values for what the source lacks, e.g. a head for other classes; None
        initialises them with key 0.
      allow_partial: accept weights that fill less than 95 % of the encoder, or that belong to a
        network with other fields.

    Returns:
      variables: ``{"params": ..., "batch_stats": ...}`` and, where the source's LayerNorm
        epsilons differ from the model's, ``"constants"``.
      report: what was loaded and skipped, the licence, and the model with matching fields.

    Raises:
      UserError: unreadable or unknown file, or weights of another network.
    """
    state = read_state(source)
    layouts = _recognised(state, model)
    name = " with ".join(layout.name for layout in layouts)
    translated, unknown = translate(state, layouts)
    if not allow_partial:
        _check_fields(model, layouts, name)

    image = jnp.zeros((1, *(image_size or IMAGE_SIZE), 3), jnp.float32)

    def initialise() -> Variables:
        return model.init(jax.random.key(0), image, train=False)

    expected = flat(jax.eval_shape(initialise))
    _fit_tables(translated, expected, layouts, keep=image_size is None)
    skipped = {}
    for target, leaf in expected.items():
        if target not in translated:
            skipped[target] = "not in the file"
        elif translated[target].shape != leaf.shape:
            skipped[target] = f"{_SHAPE}{translated[target].shape} instead of {leaf.shape}"
    unused = [target for target in translated if target not in expected]
    misfits = [f"{n} ({why})" for n, why in skipped.items() if why.startswith(_SHAPE)]
    check(
        not unknown,
        f"{name}: unknown keys {_first(unknown)}; missing: "
        f"{_first([n for n, why in skipped.items() if not why.startswith(_SHAPE)]) or 'nothing'}; "
        f"of another shape: {_first(misfits) or 'nothing'}; nothing was loaded.",
    )
    if not allow_partial:
        _check_encoder(expected, skipped, unused, name)

    loaded = [target for target in expected if target not in skipped]
    values = {target: jnp.asarray(translated[target], expected[target].dtype) for target in loaded}
    if skipped:
        values |= (
            _initial(initialise, list(skipped))
            if variables is None
            else {target: flat(variables)[target] for target in skipped}
        )

    matching, fields = _implied(model, layouts)
    if matching != model:
        constants = epsilons_of(layouts, list(expected))
        values |= {target: jnp.float32(value) for target, value in constants.items()}
    report = Report(
        layout=name,
        licence="; ".join(dict.fromkeys(x.licence for x in layouts if x.licence)),
        loaded=tuple(loaded),
        skipped=skipped,
        unused=tuple(unused),
        fields=fields,
        images="; ".join(x.images for x in layouts if x.images),
        model=matching,
    )
    return nested(values), report
