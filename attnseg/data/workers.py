"""Worker processes that neither die of signals meant for their parent nor outlive it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker

import cv2

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Processes started by this thread, or by threads it starts, get no SIGINT and no SIGTERM.

    A terminal sends Ctrl-C to all of them, and a cluster SIGTERM; the parent still needs its
    batches then, and ends them itself.
    """
    # Starting it lets the signals through again, so that comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(index: int, count: int) -> None:
    """Called in each worker process before it works."""
    del index, count
    cv2.setNumThreads(1)  # the workers are the parallelism
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])  # until it is gone, however it went
        os._exit(1)
