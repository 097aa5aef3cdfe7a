"""SIGTERM and SIGINT as a request: finish the step under way, save, end with status 75."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from attnseg.core import processes
from attnseg.core.types import MASK, SIGNALS, Batch

STATUS = 75  # EX_TEMPFAIL of sysexits.h: not done, start it again
HANDLED = (signal.SIGTERM, signal.SIGINT)
# Launchers pass a signal on to processes that got it already; such a repetition is no second one.
ECHO = 1.0  # seconds


class Stopped(SystemExit):
    """The run was asked to stop, and has saved; a program that lets it through ends with `STATUS`.

    Attributes:
      step: the step that was saved.
    """

    def __init__(self, step: int, told: str):
        super().__init__(STATUS)
        self.step, self.told = step, told

    def __str__(self) -> str:
        return self.told


class CutShort(Exception):
    """An evaluation was left because of a signal."""


class Interrupt:
    """Catches `HANDLED` while used as a context; in another thread than the main one, nothing.

    A thread reads the signals from a pipe that Python's C handler fills: neither waits for the main
    thread, which may compile for minutes. The second signal ends the process at once, with status
    128 + its number.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self.signal = 0  # number of the first signal, 0 before
        self._say = say
        self._since = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._old_pipe = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        # Python writes to the pipe only where it has a handler of its own.
        self._old = {number: signal.signal(number, lambda *_: None) for number in HANDLED}
        self._thread = threading.Thread(target=self._listen, name="attnseg-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._old:
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}
        signal.set_wakeup_fd(self._old_pipe)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _listen(self) -> None:
        while received := self._read.recv(1):
            if self._old_pipe >= 0:
                os.write(self._old_pipe, received)  # of an event loop, as notebooks have
            number = received[0]
            if number not in HANDLED:
                continue
            if not self.signal:
                self._since, self.signal = time.monotonic(), number
                self._say(
                    f"{signal.Signals(number).name}: finishes the step under way, saves and ends "
                    f"with status {STATUS}; a second signal ends it at once"
                )
            elif time.monotonic() - self._since > ECHO:
                os._exit(128 + number)

    def mark(self, batch: Batch) -> Batch:
        """The batch with this process's signal in it, for the others, if there are any."""
        if processes.count() == 1:
            return batch
        return {**batch, SIGNALS: np.full(len(batch[MASK]), self.signal, np.int32)}

    def seen(self, results: dict[str, Any] | None) -> int:
        """The signal that all processes know of: after one step or batch, each has the same."""
        if processes.count() == 1:
            return self.signal
        return 0 if results is None else int(jax.device_get(results[SIGNALS]))
