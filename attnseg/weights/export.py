"""Our variables back under published names, for the code those names come from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import UserError, check, lookup
from attnseg.core.tree import flat
from attnseg.models.assembled import Classifier
from attnseg.weights.load import IMAGE_SIZE, LAYOUTS, epsilons_of
from attnseg.weights.rules import (
    AUX_HEAD,
    ENCODER,
    HEAD,
    Layout,
    recognise,
    translate,
    untranslate,
)

SUFFIXES = (".safetensors", ".npz")
STORED = ("params", "batch_stats")  # collections that weight files hold
# Words in the names of layouts; parts that share one come in one file.
SOURCES = ("Hugging Face", "transformers 5", "NVlabs", "mmseg", "PaddleSeg", "authors")
PADDLE = "Paddle"  # in their names; torch would take such linear maps the wrong way round
MEAN, COUNTER = ".running_mean", ".num_batches_tracked"
# Sources that transform as they store (InPlaceABN's epsilon) give numbers back up to rounding.
ROUNDING = {"rtol": 1e-6, "atol": 1e-7, "equal_nan": True}

Values = dict[str, np.ndarray]


def check_target(path: str | Path) -> Path:
    """The path of a weight file to be.

    Raises:
      UserError: a suffix that is not written, no such folder, or a file that exists.
    """
    path = Path(path)
    check(path.suffix in SUFFIXES, f"{path}: unknown suffix; written: {', '.join(SUFFIXES)}.")
    check(path.parent.is_dir(), f"there is no folder {path.parent} to write {path.name} to.")
    check(not path.exists(), f"{path} exists and is not overwritten; remove it or name another.")
    return path


def write_state(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes ``{key: array}`` to a new .safetensors or .npz file.

    Raises:
      UserError: as `check_target`, or the file cannot be written.
    """
    path = check_target(path)
    arrays = {key: np.asarray(value, order="C") for key, value in state.items()}
    try:
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            from safetensors.numpy import save_file

            save_file(arrays, path, metadata={"format": "pt"})  # transformers wants to see it
    except Exception as error:  # the disk's errors come as each library's own
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error}).") from error


def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """The variables of a model without values; nothing is compiled."""
    image = jnp.zeros((1, *IMAGE_SIZE, 3), jnp.float32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def _part(name: str) -> str:
    """Part of the model that "params/PART/..." belongs to."""
    return name.split("/")[1]


def _values(model: nn.Module, variables: Mapping[str, Any]) -> Values:
    """The arrays of the model's parts, all of which must be there."""
    shapes = variable_shapes(model)
    expected = flat({c: shapes[c] for c in STORED if c in shapes})
    given = flat({c: variables[c] for c in STORED if c in variables})
    parts = {_part(name) for name in expected}
    values = {name: np.asarray(x) for name, x in given.items() if _part(name) in parts}
    for name in sorted(values.keys() ^ expected.keys()):
        have = "lack" if name in expected else "have"
        raise UserError(f"the variables are of another model: they {have} {name}.")
    return values


def _fields_fit(part: nn.Module, layout: Layout) -> bool:
    return all(getattr(part, k, v) == v for k, v in layout.fields.items())


def _misfit(model: nn.Module, layout: Layout, values: Values, constants: dict[str, Any]) -> str:
    """Why a network of this format would give other numbers than `model`, or nothing."""
    part, names = getattr(model, layout.part), list(values)
    carried = {name: value for name, value in constants.items() if _part(name) == layout.part}
    theirs = epsilons_of([layout], names)
    if theirs:  # then they are what the fields are about, and the variables may bring others
        same_part = [x for x in LAYOUTS if x.part == layout.part and x.epsilons]
        ours = epsilons_of([x for x in same_part if _fields_fit(part, x)], names) | carried
    else:
        for field, value in layout.fields.items():
            if getattr(part, field, value) != value:
                return f"it means {field}={value!r}, the model has {getattr(part, field)!r}"
        ours = carried
    for name, epsilon in ours.items():
        module = name.removeprefix("constants/").removesuffix("/epsilon")
        if name not in theirs:
            return f"it has no place for the epsilon of {module}, which the variables bring"
        if np.float32(epsilon) != np.float32(theirs[name]):
            return f"LayerNorm epsilon {theirs[name]:g}, the model has {epsilon:g} in {module}"
    return ""


def _choices(
    model: nn.Module, layouts: list[Layout], values: Values, constants: dict[str, Any]
) -> list[tuple[Layout, dict[str, np.ndarray]]]:
    """Those of a part's layouts that have a place for all of it, with what they make of it."""
    part = layouts[0].part
    values = {name: value for name, value in values.items() if _part(name) == part}
    found, misfits, uncovered = [], [], []
    for layout in layouts:
        # Encoders of classifiers are published without "backbone."; other prefixes stay.
        bare = isinstance(model, Classifier) and layout.prefix == "backbone."
        written = layout._replace(prefix="") if bare else layout
        state, left = untranslate(values, [written])
        if left:
            uncovered.append(left)
        elif misfit := _misfit(model, layout, values, constants):
            misfits.append(f"{layout.name}: {misfit}")
        else:
            found.append((layout, state | _counters(state, written)))
    if not found:
        raise UserError(
            f"no published format fits the {part} of this model. {'; '.join(misfits)}."
            if misfits
            else f"no published format has a place for {min(uncovered, key=len)[0]}; those of "
            f"a {part}: {', '.join(x.name for x in layouts)}."
        )
    return found


def _counters(state: dict[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """torch's counters of batches, where the layout has them; nothing here counts batches."""
    means = [key.removesuffix(MEAN) for key in state if key.endswith(MEAN)]
    counters = {mean + COUNTER: np.zeros((), np.int64) for mean in means}
    unknown = set(translate(counters, [layout])[1])
    return {key: value for key, value in counters.items() if key not in unknown}


def _rank(layouts: list[Layout]) -> tuple[int, int]:
    """The lower the better: Paddle's parts, then heads that are not from the encoder's source."""
    encoder, *heads = ({word for word in SOURCES if word in x.name} for x in layouts)
    strangers = sum(not encoder & head for head in heads)
    return sum(PADDLE in x.name for x in layouts), strangers


def _is_read_as(state: Mapping[str, Any], layouts: list[Layout]) -> bool:
    """Whether the import finds just these layouts in a state dict."""
    if len(recognise(state, layouts)) < len(layouts):  # most combinations fail here, quickly
        return False
    return {x.name for x in recognise(state, LAYOUTS)} == {x.name for x in layouts}


def _difference(state: dict[str, np.ndarray], layouts: list[Layout], values: Values) -> str:
    """The first array that importing `state` would not give back, or nothing."""
    again, unknown = translate(state, layouts)
    if unknown:
        return unknown[0]
    for name, value in values.items():
        back = again.get(name)
        if back is None or back.shape != value.shape:
            return name
        if not (np.array_equal(back, value) or np.allclose(back, value, **ROUNDING)):
            return name
    return ""


def export_torch(
    model: nn.Module,
    variables: Mapping[str, Any],
    path: str | Path | None = None,
    layout: str | None = None,
) -> dict[str, np.ndarray]:
    """Writes parameters and statistics back under published names, as a state dict.

    Each part takes the first layout that has a place for all its arrays and computes with the
    model's LayerNorm epsilons and fields; heads come from the encoder's source where there is a
    choice, and Paddle's layouts go last. So SegFormer becomes Hugging Face's (or, where its
    weights brought NVlabs's epsilons, NVlabs's), ResNet torchvision's, a decoder on ResNet-C
    mmsegmentation's. What is written is read back before it is returned: `load_weights`
    recognises it and finds the same numbers.

    Not written: what a source registers without using it (NVlabs's ``decode_head.conv_seg``) or
    has no counterpart here (``dsn`` of CCNet's authors). Fields that leave no trace in a file,
    such as dilations, have to be given to the other code too.

    Args:
      model: from `attnseg.create_model` or ``report.model`` of `load_weights`.
      variables: of that model; parts that it lacks are left out.
      path: .safetensors or .npz file to write besides.
      layout: name of the encoder's layout, to have another one than the first.

    Returns:
      ``{key: array}``; ``torch.from_numpy`` of its arrays is a state dict.

    Raises:
      UserError: unknown layout, no layout for a part, variables of another model, other
        LayerNorm epsilons than the layout's, or a path that cannot be written.
    """
    if path is not None:
        check_target(path)
    parts = [p for p in (ENCODER, HEAD, AUX_HEAD) if getattr(model, p, None) is not None]
    tried = {part: [x for x in LAYOUTS if x.part == part] for part in parts}
    if layout is not None:
        tried[ENCODER] = [lookup({x.name: x for x in tried[ENCODER]}, layout, "layout")]
    values = _values(model, variables)
    constants = flat({"constants": variables.get("constants", {})})
    constants = {name: x for name, x in constants.items() if name.endswith("/epsilon")}
    choices = [_choices(model, tried[part], values, constants) for part in parts]
    combined = sorted(itertools.product(*choices), key=lambda c: _rank([x for x, _ in c]))
    for chosen in combined:
        layouts = [x for x, _ in chosen]
        state = {key: value for _, written in chosen for key, value in written.items()}
        if not _is_read_as(state, layouts):
            continue  # names of several sources, which no reader tells apart
        changed = _difference(state, layouts, values)
        name = " with ".join(x.name for x in layouts)
        check(not changed, f"{name} cannot hold {changed} without changing its numbers.")
        # Copies: torch takes no views with negative steps and none that cannot be written to.
        state = {key: np.array(value, order="C") for key, value in state.items()}
        if path is not None:
            write_state(path, state)
        return state
    names = dict.fromkeys(x.name for x, _ in itertools.chain(*choices))
    raise UserError(f"no published format holds these parts together; tried {', '.join(names)}.")
