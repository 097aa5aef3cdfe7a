"""What a worker needs of a contestant, whoever it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Contestant:
    """A case made ready to run by one implementation.

    Attributes:
      runs: by pass, a callable that starts it once.
      wait: waits for what the last start returned.
      device: the device and the versions of the packages, in words.
      platform: "cpu" or "gpu".
      note: what is told beside the contestant's name.
      parameters: of a network; 0 for an operator.
      facts: by pass, what is known before it runs: ``memory`` in bytes, ``flops``, ``bytes``,
        ``compile_s``.
      peak: most bytes held on the device since it was last asked, None where nobody counts.
    """

    runs: dict[str, Callable[[], Any]]
    wait: Callable[[Any], Any]
    device: str
    platform: str
    note: str = ""
    parameters: int = 0
    facts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    peak: Callable[[], int | None] = lambda: None
