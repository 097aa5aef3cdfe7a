"""What a worker needs of a contestant, whoever it is, and how its calls are timed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from attnseg.core.errors import check

RATE = 1e-5  # of everybody's AdamW
# On a GPU a measurement takes so many calls that it lasts these seconds; they are issued one after
# the other, as a training loop does, and waited for together. The clock would see launches else.
_LEAST = 0.05
_MOST_CALLS = 1000


@dataclasses.dataclass
class Contestant:
    """A case made ready to run by one implementation.

    Attributes:
      runs: by pass, a callable that starts it once.
      wait: waits for what the last start returned.
      device: the device and the versions of the packages, in words.
      platform: "cpu", "gpu" or "tpu".
      note: what is told beside the contestant's name.
      compiles: whether the first call of a pass compiles it.
      parameters: of a network; 0 for an operator.
      facts: by pass, what is known of it: ``memory``, ``temporary`` and ``kept`` in bytes,
        ``flops``, ``bytes``, ``compile_s`` in seconds.
      peak: most bytes held on the device since it was last asked, None where nobody counts.
    """

    runs: dict[str, Callable[[], Any]]
    wait: Callable[[Any], Any]
    device: str
    platform: str
    note: str = ""
    compiles: bool = False
    parameters: int = 0
    facts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    peak: Callable[[], int | None] = lambda: None


def timed(run: Callable[[], Any], wait: Callable[[Any], Any], calls: int = 1) -> float:
    """Seconds of a call, the mean of `calls` that are waited for together."""
    begun = time.perf_counter()
    for _ in range(calls):
        out = run()
    wait(out)
    return (time.perf_counter() - begun) / calls


def calls_for(seconds: float, platform: str) -> int:
    """Calls of a measurement, of one that takes `seconds` by itself."""
    if platform == "cpu":
        return 1
    return min(max(math.ceil(_LEAST / seconds), 1), _MOST_CALLS)


def fastest(
    run: Callable[[], Any], wait: Callable[[Any], Any], platform: str, measurements: int
) -> float:
    """Seconds of a call in the fastest measurement, after a first call that may compile."""
    timed(run, wait)
    calls = calls_for(timed(run, wait), platform)
    return min(timed(run, wait, calls) for _ in range(measurements))


def check_platform(found: str, device: str, wanted: str) -> None:
    """Refuses a peer that would run elsewhere than ours.

    Raises:
      UserError: `found` is not `wanted`.
    """
    check(found == wanted, f"it runs on a {found} ({device}), ours on a {wanted}.")
