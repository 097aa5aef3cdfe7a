"""Memory of this process: how much it holds, and what becomes of what it no longer needs.

A run that evaluates and saves allocates and frees large blocks in many threads. glibc keeps freed
blocks in an arena for each thread, which looks like a leak that never ends; few arenas and a trim
after each checkpoint keep a run flat.

Large blocks, on the other hand, it gives back to the system at once. On a CPU the memory of every
program is one such block, whose pages the system has to find and clear again at the next step;
kept, it spares a fifth of the time. With one arena for all, though, every allocation of a step
walks through what compiling leaves, some 100,000 holes of many sizes, so they are set aside. On
other systems these functions do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from attnseg.core.compiler import compilations

# <malloc.h>. Once any of them is set, glibc no longer raises its limits by what a program frees, so
# that the ones to go back to are the highest that it would have come to.
TRIM_THRESHOLD, NEVER, TRIM_BYTES = -1, -1, 64 * 2**20
MMAP_THRESHOLD, MMAP_BYTES = -3, 32 * 2**20
MMAP_MAX, MMAPS = -4, 65536
ARENA_MAX = -8
ARENAS = 4
STATM = "/proc/self/statm"
CGROUP = "/proc/self/cgroup"
LIMITS = {  # by controller, of which version 2 names none
    "": ("/sys/fs/cgroup", "memory.max"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}
HOLES = 2**10, 2**20  # bytes of those worth setting aside; glibc finds smaller ones by their size
LARGEST = 2**28  # bytes of a piece of memory that is looked for
SHARE = 0.3  # of the machine's memory; blocks that no longer fit their place may double it

_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

_lock = threading.RLock()
_depth = 0  # of `keep_freed` within another one
_keeping = False
_aside: list[int] = []
_known = -1  # programs compiled when the holes were last set aside


class _MallInfo2(ctypes.Structure):
    """Of all arenas; `keepcost`: free bytes at the end of the first one."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """glibc, None where it is not the C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        if not hasattr(library, "malloc_trim") or not hasattr(library, "mallopt"):
            return None
        library.malloc.argtypes = [ctypes.c_size_t]
        library.malloc.restype = ctypes.c_size_t
        library.free.argtypes = [ctypes.c_size_t]
        library.free.restype = None
        library.sbrk.argtypes = [ctypes.c_ssize_t]
        library.sbrk.restype = ctypes.c_size_t
        library.malloc_usable_size.argtypes = [ctypes.c_size_t]
        library.malloc_usable_size.restype = ctypes.c_size_t
        if hasattr(library, "mallinfo2"):  # since 2.33
            library.mallinfo2.restype = _MallInfo2
        return library
    except OSError:
        return None


def limit_arenas() -> None:
    """Lets at most `ARENAS` arenas be made from now on; call it before threads start."""
    libc = _libc()
    if libc is not None and not _keeping and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(ARENA_MAX, ARENAS)


def _only_cpu() -> bool:
    """Whether jax will run on the CPU, asked before it has started."""
    chosen = jax.config.jax_platforms
    if chosen:
        return chosen == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


@contextlib.contextmanager
def keep_freed() -> Iterator[None]:
    """Keeps large blocks that are freed for the next one, if jax runs on a CPU.

    Call `ease` between steps within. The first time, enter it before jax starts its threads: only
    the arena of the first thread can be kept, which stays the only one. Memory is left alone where
    the environment has settings for glibc or something in its place (``MALLOC_...``,
    ``GLIBC_TUNABLES``, ``LD_PRELOAD``), and by a glibc before 2.33.
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _start_keeping()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                give_back()


def _start_keeping() -> None:
    global _keeping
    libc = _libc()
    chosen = any(name.startswith(_SETTINGS) for name in os.environ)
    if libc is None or not hasattr(libc, "mallinfo2") or chosen or not _only_cpu():
        return
    libc.mallopt(ARENA_MAX, 1)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    _keeping = True


def _set_holes_aside() -> None:
    """Keeps `HOLES` between blocks in use from being tried for new ones.

    What is free gives its pages back to the system, this once; larger pieces can be used again.
    """
    global _known
    _known = compilations()
    libc = _libc()
    libc.malloc_trim(0)
    end = libc.sbrk(0) - libc.mallinfo2().keepcost
    least, most = HOLES
    size, pieces, small = float(LARGEST), [], []
    try:
        while size >= least:  # from large to small, so that none is cut up for a smaller one
            while block := libc.malloc(int(size)):
                if block >= end:  # no hole is left of this size
                    libc.free(block)
                    break
                (small if size < most else pieces).append(block)
            size /= 2**0.25
    finally:
        # What the steps in size left over of a large piece stays with it.
        behind = {_next(libc, block) for block in pieces}
        for block in sorted(small):
            if block in behind:
                behind.add(_next(libc, block))
                pieces.append(block)
            else:
                _aside.append(block)
        for block in pieces:
            libc.free(block)


def _next(libc: ctypes.CDLL, block: int) -> int:
    """Where the block behind `block` is: between them lies the size of that one."""
    return block + libc.malloc_usable_size(block) + ctypes.sizeof(ctypes.c_size_t)


def give_back() -> None:
    """Ends `keep_freed`."""
    global _keeping, _known
    libc = _libc()
    with _lock:
        if libc is None or not _keeping:
            return
        while _aside:
            libc.free(_aside.pop())
        libc.mallopt(MMAP_MAX, MMAPS)
        libc.mallopt(MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(TRIM_THRESHOLD, TRIM_BYTES)
        libc.malloc_trim(0)
        _keeping, _known = False, -1


def ease() -> None:
    """Ends `keep_freed` where this process holds more than `SHARE` of the machine's memory.

    Also sets aside the holes that compiling has left since the last time.
    """
    with _lock:
        if _keeping and (resident_mb() or 0.0) > SHARE * _machine_mb():
            give_back()
        if _keeping and _known != compilations():
            _set_holes_aside()


@functools.cache
def _machine_mb() -> float:
    """Memory of the machine in MiB, or of the container or job that this process is in."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # not there; "max"
            limits.append(int(file.read_text()))
    return min(limits) / 2**20


def _limit_files() -> Iterator[Path]:
    """Where the groups of processes that this one is in have their limits."""
    try:
        lines = Path(CGROUP).read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        for controller in controllers.split(","):
            if controller in LIMITS:
                root, name = LIMITS[controller]
                inner = Path(root, group.strip("/"))
                # In a container the root is its own group, and the path one of the host.
                yield from (folder / name for folder in (inner, *inner.parents))


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
