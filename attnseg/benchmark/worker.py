"""A process that holds one contestant and runs it when told.

One line of JSON in, one out: ``{"mode": "train"}`` runs some times and tells of all but the first,
``{"mode": "facts"}`` tells what is known, the end of the input ends the process. While one worker
runs, the others wait for a line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator

from attnseg.benchmark.cases import COMPILED, KERAS, OURS, Case
from attnseg.benchmark.contestant import Contestant

COUNTED = 3  # measurements of a turn that count
# On a GPU a measurement takes so many calls that it lasts this long; they are issued one after
# the other, as a training loop does, and waited for together. The clock sees launches else.
_LEAST = 0.05
_MOST_CALLS = 1000


def _build(case: Case, who: str) -> Contestant:
    if who == OURS:
        from attnseg.benchmark import ours

        return ours.build(case)
    if who == KERAS:
        from attnseg.benchmark import keras_side

        return keras_side.build(case)
    from attnseg.benchmark import torch_side

    return torch_side.build(case, compile_it=who == COMPILED)


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


def _answers():
    """Where answers go: the standard output, which is the standard error's from now on.

    Libraries, and the compilers they start, print to it.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def main() -> None:
    """Serves the case in the first argument as the contestant in the second."""
    given = json.loads(sys.argv[1])
    case = Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    answers = _answers()

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    who = sys.argv[2]
    with _settings(who) as ease:
        try:
            _serve(case, who, answer, ease)
        except Exception as error:  # reported as the row's result; the others go on
            answer({"error": f"{type(error).__name__}: {error}"[:300]})
            raise  # with its traceback, to the standard error


def _timed(contestant: Contestant, mode: str, calls: int = 1) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    for _ in range(calls):
        out = contestant.runs[mode]()
    contestant.wait(out)
    return (time.perf_counter() - begun) / calls


def _warm_up(contestant: Contestant) -> dict[str, int]:
    """First calls, which may compile; completes `facts` and tells how many calls to measure."""
    calls = {}
    for mode in contestant.runs:
        facts = contestant.facts.setdefault(mode, {})
        seconds = _timed(contestant, mode)
        facts.setdefault("compile_s", seconds)
        contestant.peak()  # that of the first call, with the search for algorithms
        seconds = _timed(contestant, mode)
        peak = contestant.peak()
        if peak is not None:
            facts.setdefault("memory", peak)
        short = contestant.platform != "cpu"
        calls[mode] = min(max(math.ceil(_LEAST / seconds), 1), _MOST_CALLS) if short else 1
    return calls


def _serve(case: Case, who: str, answer: Callable[[dict], None], ease: Callable[[], None]) -> None:
    start = time.perf_counter()
    contestant = _build(case, who)
    calls = _warm_up(contestant)
    answer(
        {
            "ready_s": time.perf_counter() - start,
            "parameters": contestant.parameters,
            "device": contestant.device,
            "platform": contestant.platform,
            "note": contestant.note,
        }
    )
    for line in sys.stdin:
        mode = json.loads(line)["mode"]
        if mode == "facts":
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer({"facts": contestant.facts, "resident": resident})
            continue
        ease()
        _timed(contestant, mode)  # uncounted: the caches are full of another process's work
        answer({"seconds": [_timed(contestant, mode, calls[mode]) for _ in range(COUNTED)]})


if __name__ == "__main__":
    main()
