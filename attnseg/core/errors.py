"""Errors a user can act on: what is wrong, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in the input (configuration, file, argument), told in one sentence.

    The command line prints the message alone; a traceback would only hide it.
    """


def check(ok: bool, message: str) -> None:
    """Raises `UserError` with `message` unless `ok`."""
    if not ok:
        raise UserError(message)


def did_you_mean(name: str, names) -> str:
    """Returns ``' Did you mean "x"?'`` for the closest of `names`, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Returns ``table[name]``; an unknown name is answered with the nearest one and the list.

    Raises:
      UserError: `name` is not in `table`.
    """
    if name in table:
        return table[name]
    raise UserError(
        f'unknown {what} "{name}".{did_you_mean(name, table)} Known: {", ".join(sorted(table))}.'
    )


def check_shape(array, pattern: tuple[int | None, ...], what: str) -> None:
    """Raises `UserError` unless ``array.shape`` fits `pattern` (None matches any size)."""
    shape = tuple(array.shape)
    fits = len(shape) == len(pattern) and all(
        p is None or p == s for p, s in zip(pattern, shape, strict=True)
    )
    wanted = "x".join("?" if p is None else str(p) for p in pattern)
    check(fits, f"{what} has shape {'x'.join(map(str, shape)) or 'scalar'}, expected {wanted}.")
