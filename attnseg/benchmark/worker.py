"""A process that holds one contestant and runs it when told.

One line of JSON in, one out: ``{"mode": "train"}`` runs some times and tells of all but the first,
``{"mode": "facts"}`` tells what is known, the end of the input ends the process. While one worker
runs, the others wait for a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from attnseg.benchmark.cases import COMPILED, KERAS, OURS, Case
from attnseg.benchmark.contestant import Contestant, calls_for, timed

COUNTED = 3  # measurements of a turn that count

Answer = Callable[[dict], None]


def _build(case: Case, who: str, platform: str) -> Contestant:
    if who == OURS:
        from attnseg.benchmark import ours

        return ours.build(case)
    if who == KERAS:
        from attnseg.benchmark import keras_side

        return keras_side.build(case, platform)
    from attnseg.benchmark import torch_side

    return torch_side.build(case, platform, compile_it=who == COMPILED)


@contextlib.contextmanager
def _settings(who: str) -> Iterator[Callable[[], None]]:
    """What `attnseg.recipe.train` runs in and calls between steps."""
    if who != OURS:
        yield lambda: None
        return
    from attnseg.core import memory
    from attnseg.core.compiler import run_in_caller

    run_in_caller()
    with memory.keep_freed():
        yield memory.ease


def _answers() -> TextIO:
    """Where answers go: the standard output, which is the standard error's from now on.

    Libraries, and the compilers they start, print to it.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def main() -> None:
    """Serves a case as a contestant: arguments are the case, who, and the platform of ours."""
    given, who, platform = json.loads(sys.argv[1]), *sys.argv[2:]
    case = Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    answers = _answers()

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    with _settings(who) as ease:
        try:
            _serve(_build(case, who, platform), sys.stdin, answer, ease)
        except Exception as error:  # reported as the row's result; the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.name}, line {place.lineno} of {place.filename}"
            answer({"error": f"{type(error).__name__}: {str(error)[:300]} ({where})"})


def _warm_up(contestant: Contestant) -> dict[str, int]:
    """First calls, which may compile; completes `facts` and tells how many calls to measure."""
    calls = {}
    for mode, run in contestant.runs.items():
        facts = contestant.facts.setdefault(mode, {})
        seconds = timed(run, contestant.wait)
        if contestant.compiles:
            facts["compile_s"] = seconds
        contestant.peak()  # that of the first call, with the search for algorithms
        seconds = timed(run, contestant.wait)
        peak = contestant.peak()
        if peak is not None:
            facts["memory"] = peak
        calls[mode] = calls_for(seconds, contestant.platform)
    return calls


def _serve(
    contestant: Contestant, lines: Iterable[str], answer: Answer, ease: Callable[[], None]
) -> None:
    calls = _warm_up(contestant)
    answer(
        {
            "parameters": contestant.parameters,
            "device": contestant.device,
            "platform": contestant.platform,
            "note": contestant.note,
        }
    )
    for line in lines:
        mode = json.loads(line)["mode"]
        if mode == "facts":
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer({"facts": contestant.facts, "resident": resident})
            continue
        run, wait = contestant.runs[mode], contestant.wait
        ease()
        # The first one is not counted: the caches are full of another process's work.
        _, *seconds = [timed(run, wait, calls[mode]) for _ in range(1 + COUNTED)]
        answer({"seconds": seconds})


if __name__ == "__main__":
    main()
