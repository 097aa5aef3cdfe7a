"""How the process itself is doing: its memory and the programs it compiled."""

from __future__ import annotations

import functools

import jax

from attnseg.core import memory

_COMPILED = "/jax/core/compile/backend_compile_duration"


class _Counter:
    """Counts programs from the moment it is made."""

    def __init__(self):
        self.total = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_) -> None:
        self.total += event == _COMPILED


# One for the whole process: JAX has no public way to take a listener off again.
_counter = functools.cache(_Counter)


class Vitals:
    """Counts from the moment it is made."""

    def __init__(self):
        self._before = _counter().total

    @property
    def compilations(self) -> int:
        """Programs since, cached ones included."""
        return _counter().total - self._before

    def read(self) -> dict[str, float]:
        """`compilations`; ``rss_mb``: resident memory in MiB."""
        resident = memory.resident_mb()
        found = {"compilations": float(self.compilations)}
        return found if resident is None else {**found, "rss_mb": resident}
