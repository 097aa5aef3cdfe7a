"""A process that holds one contestant and runs it when told.

One line of JSON in, one out: ``{"mode": "train"}`` runs some times and tells of all but the first,
``{"mode": "facts"}`` tells what is known, the end of the input ends the process. While one worker
runs, the others wait for a line.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator

from attnseg.benchmark.cases import COMPILED, KERAS, OURS, Case

COUNTED = 3  # calls of a turn that count


def _build(case: Case, who: str):
    """``(runs, facts by mode, parameters, device, peak memory)`` of a contestant."""
    if who == OURS:
        from attnseg.benchmark import ours

        return (*ours.build(case), ours.device(), ours.peak)
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


def main() -> None:
    """Serves the case in the first argument as the contestant in the second."""
    given = json.loads(sys.argv[1])
    case = Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    who = sys.argv[2]
    with _settings(who) as ease:
        _serve(case, who, answer, ease)


def _serve(case: Case, who: str, answer: Callable[[dict], None], ease: Callable[[], None]) -> None:
    start = time.perf_counter()
    try:
        runs, facts, parameters, device, peak = _build(case, who)
        for mode, run in runs.items():  # the first call may compile
            begun = time.perf_counter()
            run()
            facts.setdefault(mode, {}).setdefault("compile_s", time.perf_counter() - begun)
    except Exception as error:  # reported as the row's result; the others go on
        answer({"error": f"{type(error).__name__}: {error}"[:300]})
        return
    answer({"ready_s": time.perf_counter() - start, "parameters": parameters, "device": device})
    for line in sys.stdin:
        mode = json.loads(line)["mode"]
        if mode == "facts":
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer({"facts": facts, "resident": resident, "peak": peak()})
            continue
        ease()
        runs[mode]()  # uncounted: the caches are full of what another process worked on
        seconds = []
        for _ in range(COUNTED):
            begun = time.perf_counter()
            runs[mode]()
            seconds.append(time.perf_counter() - begun)
        answer({"seconds": seconds})


if __name__ == "__main__":
    main()
