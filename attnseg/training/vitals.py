"""How the process itself is doing: its memory and the programs it compiled."""

from __future__ import annotations

from attnseg.core import memory
from attnseg.core.compiler import compilations


class Vitals:
    """Counts from the moment it is made."""

    def __init__(self):
        self._before = compilations()

    def read(self) -> dict[str, float]:
        """``compilations`` since, cached ones included; ``rss_mb``: resident memory in MiB."""
        resident = memory.resident_mb()
        found = {"compilations": float(compilations() - self._before)}
        return found if resident is None else {**found, "rss_mb": resident}
