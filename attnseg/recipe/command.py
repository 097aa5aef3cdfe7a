"""What the programs in ``launch/`` share: arguments, overrides and the telling of errors."""

from __future__ import annotations

import argparse
import ast
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from attnseg.core import processes
from attnseg.core.errors import UserError, check
from attnseg.core.files import disk_reason

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

    So does what a disk refuses that is full or cannot be written. Both exit with status 2. On any
    error the other processes of the job end as well.

    ``--coordinator_address``, ``--num_processes`` and ``--process_id`` are options of every
    program; see `attnseg.core.processes.start`.
    """
    hosts = parser.add_argument_group("a job of several processes (docs/many_hosts.md)")
    hosts.add_argument("--coordinator_address", help="HOST:PORT of process 0, or auto")
    hosts.add_argument("--num_processes", type=int, help="processes of the job")
    hosts.add_argument("--process_id", type=int, help="which of them this is, 0 for the first")
    try:
        rest, changes = split_overrides(sys.argv[1:] if arguments is None else arguments)
        options = parser.parse_args(rest)
        processes.start(options.coordinator_address, options.num_processes, options.process_id)
        function(options, changes)
    except UserError as error:
        _end(str(error))
    except Exception as error:
        reason = disk_reason(error) if isinstance(error, OSError) else None
        if reason is not None:
            _end(f"{error.filename or 'a file'} cannot be used: {reason[0]}; {reason[1]}.")
        if processes.count() > 1:
            traceback.print_exc()
            processes.leave(f"{type(error).__name__}: {error}", 1)
        raise


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    processes.leave(message, USAGE_ERROR)
    raise SystemExit(USAGE_ERROR) from None
