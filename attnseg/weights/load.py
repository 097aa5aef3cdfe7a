"""Loading published weights: recognised by their keys, checked together, reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.tree import flat, nested
from attnseg.weights import segformer
from attnseg.weights.read import read_state
from attnseg.weights.rules import Layout, recognise, translate

LAYOUTS: tuple[Layout, ...] = segformer.LAYOUTS
ENCODER_SHARE = 0.95  # of the encoder's parameters that a file must fill
IMAGE_SIZE = (64, 64)

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a weight file.

    Attributes:
      layout: name of the format.
      licence: of the weights usually found in it.
      loaded: names that were filled.
      skipped: name -> why it was not filled; it keeps its initial value.
      unused: names the file has and the model has not.
      fields: backbone fields the layout implies.
      model: the model with the fields this layout implies; `variables` also work with the model
        that was passed in, as they carry the constants that differ.
    """

    layout: str
    licence: str
    loaded: tuple[str, ...]
    skipped: dict[str, str]
    unused: tuple[str, ...]
    fields: dict[str, Any]
    model: nn.Module

    def summary(self) -> str:
        """The report in a few lines."""
        lines = [f"{self.layout}: {len(self.loaded)} arrays loaded. Licence: {self.licence}."]
        lines += [f"  not loaded: {name} ({why})" for name, why in self.skipped.items()]
        lines += [f"  not used: {name}" for name in self.unused]
        return "\n".join(lines)


def _first(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_encoder(name: str) -> bool:
    return name.split("/")[1] == "backbone"


def _check_encoder(
    expected: dict[str, Any], skipped: dict[str, str], unused: list[str], layout: Layout
) -> None:
    size = {n: int(np.prod(x.shape)) for n, x in expected.items() if _is_encoder(n)}
    missing = [n for n in skipped if _is_encoder(n)]
    share = 1.0 - sum(size[n] for n in missing) / max(sum(size.values()), 1)
    extra = [n for n in unused if _is_encoder(n)]
    check(
        share >= ENCODER_SHARE and not extra,
        f"these {layout.name} weights are of another network: they fill {share:.0%} of the "
        f"encoder. Not filled: {_first([f'{n} ({skipped[n]})' for n in missing]) or 'nothing'}. "
        f"Not in the model: {_first(extra) or 'nothing'}. "
        "Create the model of the same size, or pass allow_partial=True.",
    )


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    variables: Variables | None = None,
    allow_partial: bool = False,
) -> tuple[Variables, Report]:
    """Fills the variables of `model` from a weight file of any known format.

    Args:
      model: from `attnseg.create_model`.
      source: a .safetensors, .npz or torch file, or a state dict in memory.
      image_size: (h, w) the variables are shaped for.
      variables: values for what the source lacks, e.g. a head for other classes; None
        initialises them with key 0.
      allow_partial: accept weights that fill less than 95 % of the encoder.

    Returns:
      variables: ``{"params": ..., "batch_stats": ...}`` and, where the source's LayerNorm
        epsilons differ from the model's, ``"constants"``.
      report: what was loaded and skipped, the licence, and the model with matching fields.

    Raises:
      UserError: unreadable or unknown file, or weights of another network.
    """
    state = read_state(source)
    layout = recognise(state, LAYOUTS)
    if layout is None:
        raise UserError(
            f"these weights are of no known format (keys like {_first(sorted(state), 3)}); "
            f"known: {', '.join(known.name for known in LAYOUTS)}."
        )
    translated, unknown = translate(state, layout)
    check(not unknown, f"{layout.name}: unknown keys {_first(unknown)}; nothing was loaded.")

    image = jnp.zeros((1, *image_size, 3), jnp.float32)

    def initialise() -> Variables:
        return model.init(jax.random.key(0), image, train=False)

    expected = flat(jax.eval_shape(initialise))
    skipped = {}
    for name, leaf in expected.items():
        if name not in translated:
            skipped[name] = "not in the file"
        elif translated[name].shape != leaf.shape:
            skipped[name] = f"shape {translated[name].shape} instead of {leaf.shape}"
    unused = [name for name in translated if name not in expected]
    if not allow_partial:
        _check_encoder(expected, skipped, unused, layout)

    loaded = [name for name in expected if name not in skipped]
    values = {name: jnp.asarray(translated[name], expected[name].dtype) for name in loaded}
    if skipped:
        initial = flat(jax.jit(initialise)() if variables is None else variables)
        values |= {name: initial[name] for name in skipped}

    current = {k: getattr(model.backbone, k) for k in layout.fields}
    matching = model.clone(backbone=model.backbone.clone(**layout.fields))
    if current != layout.fields:
        constants = layout.constants(list(expected))
        values |= {name: jnp.float32(value) for name, value in constants.items()}
    report = Report(
        layout=layout.name,
        licence=layout.licence,
        loaded=tuple(loaded),
        skipped=skipped,
        unused=tuple(unused),
        fields=layout.fields,
        model=matching,
    )
    return nested(values), report
