"""What the programs in ``launch/`` share: arguments, overrides and the telling of errors."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from typing import Any

from attnseg.core.errors import UserError, check
from attnseg.core.files import disk_reason
from attnseg.core.mesh import start_processes

OVERRIDE = "--config."
USAGE_ERROR = 2  # exit status of a mistake in the input


def parse_value(text: str) -> Any:
    """Python literal, ``true``/``false``, or the text itself."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes ``--config.a.b=V`` and ``--config.a.b V`` out of the arguments.

    Raises:
      UserError: an override without a value.
    """
    rest: list[str] = []
    changes: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith(OVERRIDE):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix(OVERRIDE).partition("=")
        if not equals:
            check(bool(queue), f"{argument} has no value; write {argument}=VALUE.")
            value = queue.pop(0)
        changes[key] = parse_value(value)
    return rest, changes


def integers(text: str) -> tuple[int, ...]:
    """``48,64,96`` as an argparse type."""
    try:
        return tuple(int(part) for part in text.strip("()").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is no list of integers') from None


def pair(text: str) -> tuple[int, int]:
    """``Y,X`` or ``H,W`` as an argparse type."""
    numbers = integers(text)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f'"{text}" is not two integers, e.g. 96,128')
    return numbers[0], numbers[1]


def only(values: Sequence[Any], flag: str) -> Any:
    """The one value of a flag that may be repeated elsewhere.

    Raises:
      UserError: none or several.
    """
    check(len(values) == 1, f"give {flag} once; it was given {len(values)} times.")
    return values[0]


def places(workdirs: Sequence[str], configs: Sequence[str]) -> list[dict[str, str]]:
    """Keyword arguments that open each network, runs first.

    Raises:
      UserError: there is none.
    """
    found = [{"workdir": w} for w in workdirs] + [{"config": c} for c in configs]
    check(bool(found), "give --workdir=DIR of a run, or --config=FILE.")
    return found


def run(
    parser: argparse.ArgumentParser,
    function: Callable[[argparse.Namespace, dict[str, Any]], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Calls ``function(options, configuration overrides)``; a `UserError` becomes one line.

    So does what a disk refuses that is full or cannot be written. Both exit with status 2.
    """
    try:
        rest, changes = split_overrides(sys.argv[1:] if arguments is None else arguments)
        options = parser.parse_args(rest)
        start_processes()
        function(options, changes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        file = error.filename or "a file"
        print(f"error: {file} cannot be used: {reason[0]}; {reason[1]}.", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
