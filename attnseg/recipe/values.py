"""Values of configuration keys: their types, and numbers that are numbers."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict

from attnseg.core.errors import check
from attnseg.models import zoo

LARGEST = 2**31 - 1  # steps, sizes and seeds are 32-bit integers further on
# Tuples without a default, or whose elements nothing else looks at: what an element is.
_ELEMENTS: dict[str, tuple[Any, ...]] = {
    "loss.class_weights": (1.0,),
    "data.split_ratios": (1.0,),
}


def fit(key: str, value: Any, wanted: type) -> Any:
    """`value` as a `wanted`, where that is only another way to write it.

    Raises:
      UserError: it is something else.
    """
    if isinstance(value, list):
        value = tuple(value)
    if (wanted, type(value)) in ((str, int), (str, float)):
        value = wanted(value)
    if wanted is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if wanted is type(None):  # a field of a network that is unset by default: any kind
        return value
    # For Python True is a number.
    ok = value is None or isinstance(value, wanted)
    ok = ok and not (isinstance(value, bool) and wanted is not bool)
    check(ok, f"{key}={_short(value)} is a {type(value).__name__}, expected a {wanted.__name__}.")
    return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits to be written
        text = "..."
    return text if len(text) <= 80 else text[:77] + "..."


def check_numbers(values: dict[str, Any]) -> None:
    """Refuses NaN, infinity and integers beyond 32 bits, also within tuples.

    Raises:
      UserError: names the first key with one.
    """
    for key, value in values.items():
        for part in _parts(value):
            if isinstance(part, float):
                check(math.isfinite(part), f"{key}={_short(value)} is no finite number.")
            elif isinstance(part, int):
                check(
                    abs(part) <= LARGEST,
                    f"{key}={_short(value)} is too large; use at most {LARGEST}.",
                )


def _parts(value: Any):
    if isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def check_elements(config: ConfigDict, values: dict[str, Any]) -> None:
    """Compares the elements of tuples with what they must be.

    Fields of a network are compared with those it is published with.

    Raises:
      UserError: names key, value and an example.
    """
    examples = dict(_ELEMENTS)
    spec = zoo.find_spec(config.model.name)
    parts = {"backbone": spec.backbone, "head": spec.head, "aux_head": zoo.AUX_HEAD}
    for section, part in parts.items():
        for name, example in zoo.part_fields(part).items():
            examples[f"model.{section}.{name}"] = example
    for key, example in examples.items():
        value = values.get(key)
        if value is not None and isinstance(example, tuple):
            check(
                _alike(value, example),
                f"{key}={_short(value)} is of the wrong kind; write it like {example}.",
            )


def _alike(value: Any, example: Any) -> bool:
    if isinstance(example, tuple):
        return isinstance(value, tuple) and (
            not example or all(any(_alike(v, e) for e in example) for v in value)
        )
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return example is None or type(value) is type(example)
