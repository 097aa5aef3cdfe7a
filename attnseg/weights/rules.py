"""What a table of rules is made of, its application to a state dict, and its inverse."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

ENCODER, HEAD, AUX_HEAD = "backbone", "head", "aux_head"  # parts of a model


class Convert(NamedTuple):
    """One array of the source to our arrays, and back."""

    read: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    write: Callable[..., np.ndarray]


# [c], or anything stored alike on both sides.
same = Convert(lambda x: (x,), lambda x: x)
# A number kept as [] there and as [1] here.
scalar = Convert(lambda x: (x.reshape(1),), lambda x: x.reshape(()))
# Linear [o i] -> [i o].
dense = Convert(lambda x: (x.T,), lambda x: x.T)
# 1x1 convolution [o i 1 1] (or a linear map) -> [i o].
pointwise = Convert(lambda x: (x.reshape(x.shape[:2]).T,), lambda x: x.T[..., None, None])
# Convolution [o i h w] -> [h w i o].
kernel = Convert(lambda x: (x.transpose(2, 3, 1, 0),), lambda x: x.transpose(3, 2, 0, 1))


def dense_parts(parts: int) -> Convert:
    """Linear maps stacked by output, [parts*o i] -> parts of [i o]."""
    return Convert(
        lambda x: tuple(p.T for p in np.split(x, parts)),
        lambda *xs: np.concatenate([x.T for x in xs]),
    )


def vector_parts(parts: int) -> Convert:
    """Vectors end to end -> the parts."""
    return Convert(lambda x: tuple(np.split(x, parts)), lambda *xs: np.concatenate(xs))


def mixing(order: tuple[int, ...]) -> Convert:
    """Mixing matrix [d 4d 1 1] of a concatenation -> one slice [d d] per stage.

    `order` is the stage (from 0) of each position in the concatenation; slices come back in the
    order of the stages.
    """

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        slices = np.split(x.reshape(x.shape[:2]), len(order), axis=1)
        return tuple(slices[order.index(stage)].T for stage in range(len(order)))

    def write(*xs: np.ndarray) -> np.ndarray:
        return np.concatenate([xs[stage].T for stage in order], axis=1)[..., None, None]

    return Convert(read, write)


class Rule(NamedTuple):
    """One kind of key.

    `key` is the source's whole key and `targets` are our names, both with numbers as ``{s}``:
    a lower-case letter stands for a number that the source counts from 0, a capital for one it
    counts from 1; all count from 1 here. No target: the entry is not needed.
    """

    key: str
    targets: tuple[str, ...] = ()
    convert: Convert = same


class Layout(NamedTuple):
    """A source's way of naming one part of a network.

    Attributes:
      name: for people.
      part: ENCODER, HEAD or AUX_HEAD.
      marks: key templates that must each fit some key; that is how a file is recognised.
      rules: exactly one fits each key.
      prefix: of all keys and marks, absent in files that hold nothing but this part.
      licence: of the weights usually distributed in this layout.
      fields: fields of the part that the layout implies.
      epsilons: (regex of a parameter name, epsilon) of the part's LayerNorms, where sources of
        one network disagree; the first that is found counts.
      images: how the source prepares images, where that is not ImageNet's normalisation of RGB.
      tables: (regex of a parameter name, ``(table, rows) -> table``) of position tables, whose
        first axis grows with the grid.
    """

    name: str
    part: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    prefix: str = ""
    licence: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})
    epsilons: tuple[tuple[str, float], ...] = ()
    images: str = ""
    tables: tuple[tuple[str, Callable[[Any, int], Any]], ...] = ()


def pair(source: str, target: str, convert: Convert = dense) -> tuple[Rule, ...]:
    """Rules for ``SOURCE.weight`` and ``SOURCE.bias`` of a linear map or convolution."""
    return (
        Rule(f"{source}.weight", (f"params/{target}/kernel",), convert),
        Rule(f"{source}.bias", (f"params/{target}/bias",)),
    )


def weight(source: str, target: str, convert: Convert = kernel) -> tuple[Rule, ...]:
    """The rule for ``SOURCE.weight`` of a map without bias."""
    return (Rule(f"{source}.weight", (f"params/{target}/kernel",), convert),)


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for a LayerNorm or GroupNorm."""
    return (
        Rule(f"{source}.weight", (f"params/{target}/scale",)),
        Rule(f"{source}.bias", (f"params/{target}/bias",)),
    )


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for torch's BatchNorm."""
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", (f"batch_stats/{target}/mean",)),
        Rule(f"{source}.running_var", (f"batch_stats/{target}/var",)),
        Rule(f"{source}.num_batches_tracked"),
    )


def paddle_batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for Paddle's BatchNorm."""
    return (
        *norm(source, target),
        Rule(f"{source}._mean", (f"batch_stats/{target}/mean",)),
        Rule(f"{source}._variance", (f"batch_stats/{target}/var",)),
    )


def stacked(source: str, targets: tuple[str, ...], weight: str, bias: str) -> tuple[Rule, ...]:
    """Rules for linear maps stacked in one entry, ``SOURCE`` + `weight` and + `bias`."""
    kernels = tuple(f"params/{t}/kernel" for t in targets)
    biases = tuple(f"params/{t}/bias" for t in targets)
    return (
        Rule(source + weight, kernels, dense_parts(len(targets))),
        Rule(source + bias, biases, vector_parts(len(targets))),
    )


@functools.lru_cache(maxsize=4096)
def _regex(template: str, prefix: str = "") -> re.Pattern[str]:
    """``a.{s}.b`` as a regex; a letter that comes twice must be the same number."""
    seen: set[str] = set()

    def number(match: re.Match[str]) -> str:
        letter = match[1]
        if letter in seen:
            return f"(?P={letter})"
        seen.add(letter)
        return rf"(?P<{letter}>\d+)"

    body = re.sub(r"\\\{(\w)\\\}", number, re.escape(template))
    return re.compile(f"(?:{re.escape(prefix)})?{body}")


def _shifted(groups: Mapping[str, str], by: int) -> dict[str, int]:
    return {k: int(v) + (by if k.islower() else 0) for k, v in groups.items()}


def recognise(state: Mapping[str, Any], layouts: Sequence[Layout]) -> list[Layout]:
    """For each part of a model the first layout all of whose marks are there."""
    found: dict[str, Layout] = {}
    for layout in layouts:
        if layout.part in found:
            continue
        marks = [_regex(mark, layout.prefix) for mark in layout.marks]
        if all(any(mark.fullmatch(key) for key in state) for mark in marks):
            found[layout.part] = layout
    return list(found.values())


def translate(
    state: Mapping[str, np.ndarray], layouts: Sequence[Layout]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Applies the rules: ``({our name: array}, keys that not exactly one rule fits)``."""
    rules = [(rule, _regex(rule.key, lay.prefix)) for lay in layouts for rule in lay.rules]
    translated: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for key, value in state.items():
        fits = [(r, m) for r, pattern in rules if (m := pattern.fullmatch(key))]
        if len(fits) != 1:
            unknown.append(key)
            continue
        rule, match = fits[0]
        if not rule.targets:
            continue
        numbers = _shifted(match.groupdict(), 1)
        for target, part in zip(rule.targets, rule.convert.read(value), strict=True):
            translated[target.format(**numbers)] = np.asarray(part)
    return translated, unknown


def untranslate(
    values: Mapping[str, np.ndarray], layouts: Sequence[Layout]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The inverse of `translate`: ``({source's key: array}, our names that no rule has)``."""
    state: dict[str, np.ndarray] = {}
    written: set[str] = set()
    for layout in layouts:
        for rule in layout.rules:
            for name in values if rule.targets else ():
                match = _regex(rule.targets[0]).fullmatch(name)
                if match is None or name in written:
                    continue
                numbers = {k: int(v) for k, v in match.groupdict().items()}
                names = [target.format(**numbers) for target in rule.targets]
                if all(n in values for n in names):
                    key = layout.prefix + rule.key.format(**_shifted(match.groupdict(), -1))
                    state[key] = rule.convert.write(*(values[n] for n in names))
                    written.update(names)
    return state, [name for name in values if name not in written]
