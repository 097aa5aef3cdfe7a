"""What a run writes down: metrics.jsonl, TensorBoard events, the line in the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.files import told

FILE = "metrics.jsonl"
EVENTS = "logs"
RESERVED = {"step", "split"}
SHOWN = (("loss", ".4f"), ("lr", ".2e"))  # values of the terminal line and their formats


class MetricLog:
    """Appends metrics to ``WORKDIR/metrics.jsonl`` and to TensorBoard events in ``WORKDIR/logs``.

    Args:
      workdir: folder of the run; made when missing.
      tensorboard: also write events.
      active: False writes nothing, for all processes of a job but one.
      resume_step: the step of the checkpoint a run goes on from. What was logged after it is
        dropped, since the run will log it again. None keeps everything.
      without: a split whose record of `resume_step` is dropped as well.

    Raises:
      UserError: metrics.jsonl is damaged before its last line, or cannot be written.
    """

    def __init__(
        self,
        workdir: str | Path,
        tensorboard: bool = True,
        resume_step: int | None = None,
        active: bool = True,
        without: str | None = None,
    ):
        self._file = self._events = None
        if not active:
            return
        workdir = Path(workdir)
        self._what = f"{workdir / FILE} could not be written"
        with told(self._what):
            workdir.mkdir(parents=True, exist_ok=True)
            _rewind(workdir / FILE, resume_step, without)
            self._file = (workdir / FILE).open("a", encoding="utf-8")
        if tensorboard:
            self._events = _event_writer(workdir / EVENTS, resume_step)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends ``{"step": ..., "split": ..., "SPLIT/NAME": value}`` as a line, on disk at once.

        Names are given without the split, as ``loss`` or ``iou/road``, and written with it, as
        ``train/loss``. NaN and infinity become null in the file, which JSON cannot write.
        """
        if self._file is None:
            return
        numbers = {f"{split}/{name}": float(value) for name, value in values.items()}
        record = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        record = {"step": int(step), "split": split, **record}
        with told(self._what):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in numbers.items():
                self._events.add_scalar(name, value, int(step))

    def image(self, step: int, tag: str, picture: np.ndarray) -> None:
        """Shows u8 [h w 3] in TensorBoard; metrics.jsonl holds no pictures."""
        if self._events is not None:
            self._events.add_image(tag, np.asarray(picture), int(step), dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # `write` flushed, or has told
                self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads the records of a metrics.jsonl in order; a torn last line is left out.

    Raises:
      UserError: no such file, or a line before the last that is not a record.
    """
    path = Path(path)
    check(path.is_file(), f"no metrics at {path}.")
    lines = path.read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not (isinstance(record, dict) and set(record) >= RESERVED):
                raise ValueError("a record has a step and a split")
        except ValueError as error:
            if number == len(lines):
                break  # the process was killed while it wrote
            raise UserError(
                f"{path} line {number} is not a record: {error}. Mend or remove the line."
            ) from error
        records.append(record)
    return records


def _rewind(path: Path, step: int | None, without: str | None) -> None:
    """Removes records after `step`, that of split `without` at it, and a torn last line."""
    if not path.exists():
        return
    kept = [r for r in read_metrics(path) if step is None or r["step"] <= step]
    kept = [r for r in kept if without is None or (r["step"], r["split"]) != (step, without)]
    text = "".join(json.dumps(r) + "\n" for r in kept).encode()
    if text == path.read_bytes():
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(text)
    os.replace(fresh, path)


def _event_writer(folder: Path, resume_step: int | None):
    from tensorboardX import SummaryWriter

    purge = None if resume_step is None else resume_step + 1
    return SummaryWriter(str(folder), purge_step=purge)


class Progress:
    """Says how far a run is, how fast it goes and when it will end.

    Args:
      total_steps: steps of the whole run.
      images_per_step: images of a global batch, all accumulated parts together.
      start_step: the step it goes on from.
      clock: seconds that only grow.
    """

    def __init__(
        self,
        total_steps: int,
        images_per_step: int,
        start_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.rates: dict[str, float] = {}
        self._total, self._images = total_steps, images_per_step
        self._clock = clock
        self._step, self._since = start_step, clock()
        self._paused_at: float | None = None
        self._pace: float | None = None

    def pause(self) -> None:
        """Stops the clock, for evaluation and checkpoints."""
        if self._paused_at is None:
            self._paused_at = self._clock()

    def resume(self) -> None:
        """Starts the clock again."""
        if self._paused_at is not None:
            self._since += self._clock() - self._paused_at
            self._paused_at = None

    def line(self, step: int, values: Mapping[str, float], seconds_waiting: float) -> str:
        """Closes the window that the previous call opened and describes it.

        Args:
          step: steps done.
          values: ``loss`` and ``lr`` of the window; others are not shown.
          seconds_waiting: time in this window in which the step waited for data.

        Returns:
          One line for the terminal. `rates` then holds the window's ``images_per_second`` and
          ``data_wait`` (share of the time, 0..1) for the metric log.
        """
        self.resume()
        now = self._clock()
        seconds, steps = max(now - self._since, 1e-9), step - self._step
        self._step, self._since = step, now
        self.rates = {
            "images_per_second": steps * self._images / seconds,
            "data_wait": min(1.0, seconds_waiting / seconds),
        }
        return "  ".join(
            [
                f"step {step:>{len(str(self._total))}}/{self._total}",
                f"{100 * step / self._total:5.1f}%",
                *(f"{name} {values[name]:{form}}" for name, form in SHOWN if name in values),
                f"{self.rates['images_per_second']:.1f} images/s",
                f"data wait {100 * self.rates['data_wait']:.0f}%",
                f"ETA {_hms(self._remaining(seconds, steps))}",
            ]
        )

    def _remaining(self, seconds: float, steps: int) -> float:
        """Seconds to the end at a pace that forgets old windows: the first one holds compiling."""
        if steps > 0:
            pace = seconds / steps
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
        return max(0, self._total - self._step) * (self._pace or 0.0)


def _hms(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}"
