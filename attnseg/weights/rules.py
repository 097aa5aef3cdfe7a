"""What a table of rules is made of, and its application to a state dict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Convert = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def vector(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """[c] as it is."""
    return (x,)


def dense(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Linear [o i] or 1x1 convolution [o i 1 1] -> [i o]."""
    return (x.reshape(x.shape[:2]).T,)


def kernel(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Convolution [o i h w] -> [h w i o]."""
    return (x.transpose(2, 3, 1, 0),)


def dense_parts(parts: int) -> Convert:
    """Linear maps stacked by output, [parts*o i] -> parts of [i o]."""
    return lambda x: tuple(p.T for p in np.split(x, parts))


def vector_parts(parts: int) -> Convert:
    """Vectors end to end -> the parts."""
    return lambda x: tuple(np.split(x, parts))


def mixing(order: tuple[int, ...]) -> Convert:
    """Mixing matrix [d 4d 1 1] of a concatenation -> one slice [d d] per stage.

    `order` is the stage (from 0) of each position in the concatenation; slices come back in the
    order of the stages.
    """

    def split(x: np.ndarray) -> tuple[np.ndarray, ...]:
        slices = np.split(x.reshape(x.shape[:2]), len(order), axis=1)
        return tuple(slices[order.index(stage)].T for stage in range(len(order)))

    return split


class Rule(NamedTuple):
    """One kind of key.

    `pattern` fits a whole key. Named groups fill the targets: ``s`` and ``b`` count from 0 in the
    source, ``S`` from 1; all count from 1 here. No target: the entry is not needed.
    """

    pattern: str
    targets: tuple[str, ...] = ()
    convert: Convert = vector


class Layout(NamedTuple):
    """A source's way of naming one network.

    Attributes:
      name: for people.
      marks: regexes that must each fit some key; that is how a file is recognised.
      rules: exactly one fits each key.
      licence: of the weights usually distributed in this layout.
      fields: backbone fields the layout implies.
      constants: ``model fields, parameter names -> {name: value}`` of the collection ``constants``.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    licence: str
    fields: dict[str, Any]
    constants: Callable[[list[str]], dict[str, float]]


def recognise(state: Mapping[str, Any], layouts: tuple[Layout, ...]) -> Layout | None:
    """The first layout all of whose marks are there."""
    for layout in layouts:
        if all(any(re.search(mark, key) for key in state) for mark in layout.marks):
            return layout
    return None


def translate(
    state: Mapping[str, np.ndarray], layout: Layout
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Applies the rules: ``({our name: array}, keys that not exactly one rule fits)``."""
    translated: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for key, value in state.items():
        fits = [(r, m) for r in layout.rules if (m := re.fullmatch(r.pattern, key))]
        if len(fits) != 1:
            unknown.append(key)
            continue
        rule, match = fits[0]
        if not rule.targets:
            continue
        groups = {k: int(v) + (k != "S") for k, v in match.groupdict().items()}
        for target, part in zip(rule.targets, rule.convert(value), strict=True):
            translated[target.format(**groups)] = np.asarray(part)
    return translated, unknown
