"""Memory of this process: how much it holds, and giving back what it no longer needs.

A run that evaluates and saves allocates and frees large blocks in many threads. glibc keeps freed
blocks in an arena for each thread, which looks like a leak that never ends; few arenas and a trim
after each checkpoint keep a run flat. On other systems these functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys

MALLOPT_ARENA_MAX = -8  # <malloc.h>: M_ARENA_MAX
ARENAS = 4
STATM = "/proc/self/statm"


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """glibc, None where it is not the C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
    except OSError:
        return None


def limit_arenas() -> None:
    """Lets at most `ARENAS` arenas be made from now on; call it before threads start."""
    libc = _libc()
    if libc is not None and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(MALLOPT_ARENA_MAX, ARENAS)


def release() -> None:
    """Collects cycles and gives free pages back to the system; takes some 0.1 s."""
    gc.collect()
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def resident_mb() -> float | None:
    """Resident memory of this process in MiB, None where the system does not tell cheaply."""
    try:
        with open(STATM, "rb") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
