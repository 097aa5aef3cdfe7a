"""Where the time of the input goes: each stage of a batch by itself, then the loader as it runs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.types import IMAGE, LABEL, Batch, Example
from attnseg.data.sources import Source

READ, DECODE, GEOMETRY, ASSEMBLY = "read", "decode", "geometry", "batch assembly"
HOST_STAGES = (READ, DECODE, GEOMETRY, ASSEMBLY)


@dataclasses.dataclass(frozen=True)
class Stages:
    """Seconds of each stage of `HOST_STAGES`, for `images` images in one thread.

    Attributes:
      seconds: by stage.
      images: how many went through all of them.
      left_out: records that could not be read.
    """

    seconds: dict[str, float]
    images: int
    left_out: int


def time_stages(
    source: Source,
    *,
    geometry: Callable[[Example, np.random.Generator], Example],
    batch_size: int,
    batches: int,
    seed: int,
    max_skipped: int | None = None,
) -> Stages:
    """Makes batches one image after the other in this thread and clocks every stage.

    The examples are those a training epoch begins with, in another order; OpenCV has one thread
    meanwhile, as in a worker.

    Args:
      source: has ``read`` and ``decode``; see `Source`.
      geometry: as in `train_batches`.
      batch_size: images in a batch.
      batches: how many.
      seed: of the order and of the geometry's draws.
      max_skipped: records that may be unreadable; None allows none.

    Raises:
      UserError: more records than allowed cannot be read.
    """
    check(len(source) > 0, f"{source!r} has no examples.")
    seconds: dict[str, float] = collections.defaultdict(float)
    rng = np.random.default_rng(seed)
    images = left_out = 0
    order = _endless(len(source), rng)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for _ in range(batches):
            rows: list[Example] = []
            while len(rows) < batch_size:
                try:
                    rows.append(_one(source, next(order), geometry, rng, seconds))
                except UserError:
                    left_out += 1
                    if left_out > (max_skipped or 0):
                        raise
            with _clocked(seconds, ASSEMBLY):
                np.stack([row[IMAGE] for row in rows])
                np.stack([row[LABEL] for row in rows]).astype(np.int32)
            images += len(rows)
    finally:
        cv2.setNumThreads(threads)
    return Stages(dict(seconds), images, left_out)


def time_loader(stream: Iterator[Batch], *, warm: int, batches: int) -> float:
    """Seconds that `batches` batches take to arrive, after `warm` others."""
    for _ in range(warm):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return time.perf_counter() - began


def _one(source, index, geometry, rng, seconds) -> Example:
    with _clocked(seconds, READ):
        stored = source.read(index)
    with _clocked(seconds, DECODE):
        example = source.decode(index, stored)
    with _clocked(seconds, GEOMETRY):
        return geometry(example, rng)


def _endless(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


@contextlib.contextmanager
def _clocked(seconds: dict[str, float], stage: str):
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - began
