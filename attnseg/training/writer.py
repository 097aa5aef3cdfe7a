"""Writing checkpoints beside the training: whole, checked, and older ones deleted only then."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from attnseg.core.errors import UserError
from attnseg.core.files import disk_reason, write_json
from attnseg.training import manifest, step_folder
from attnseg.training.catalogue import Catalogue
from attnseg.training.state import TrainState

_PATIENCE = 20  # tries to delete what a failed save has left, a tenth of a second apart


class _OneTelling(logging.Filter):
    """Drops Orbax's tracebacks of a save that failed; `Writer.check` raises it as one sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _ignore_closed_loops() -> None:
    """Drops what arrays that are still being written say of the loop of a save that failed.

    TensorStore calls back into an event loop that Orbax has closed by then; Python can only print
    such an error, as a traceback behind our sentence.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Orbax's, but for one thing: each array goes to disk from the first device that has it.

    Orbax cuts every copied array into a part for each device, a slice each, with a program each:
    seconds before the first save returns, for arrays of a few megabytes.
    """
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    numbers = ocp.type_handlers.ScalarHandler()
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        *((kind, numbers) for kind in (int, float, np.number)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class Writer:
    """Writes one checkpoint at a time, in the background.

    The order makes a death at any moment harmless: the arrays go to ``STEP.partial/``, then the
    JSON parts, then the manifest, all synced to disk; then the folder is renamed to ``STEP/``;
    then older ones are renamed to ``STEP.removed/`` and deleted. Of the processes of a job all
    write arrays and the first one does the rest.

    Args:
      catalogue: the checkpoints there are.
      keep: how many of the latest stay, besides the best.
    """

    def __init__(self, catalogue: Catalogue, keep: int):
        self._catalogue, self._keep = catalogue, keep
        self._folder = catalogue.folder
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, BaseException] | None = None
        self._failed = False
        self._quiet = _OneTelling()

    def start(
        self, step: int, state: TrainState, meta: dict[str, Any], metric: str, score: float | None
    ) -> None:
        """Copies `state` and returns; the rest happens behind.

        Args:
          metric: name of the score that decides which checkpoint is best.
          score: None if this one was not evaluated.

        Raises:
          UserError: as `check`.
        """
        self.wait()
        partial = self._folder / f"{step}.partial"
        logging.getLogger("absl").addFilter(self._quiet)
        try:
            damaged = self._catalogue.damaged()
            if jax.process_index() == 0:
                self._tidy(damaged)
            for old in (*damaged, step):
                self._catalogue.forget(old)
            if self._orbax is None:
                _ignore_closed_loops()
                self._orbax = ocp.AsyncCheckpointer(_handler())
            self._orbax.save(partial / step_folder.STATE, args=ocp.args.PyTreeSave(state))
        except Exception as error:
            logging.getLogger("absl").removeFilter(self._quiet)
            self._fail(step, error)
            self.check()
        arguments = (step, partial, meta, metric, score)
        self._thread = threading.Thread(target=self._finish, args=arguments, name="checkpoint")
        self._thread.start()

    def _tidy(self, damaged: list[int]) -> None:
        """Makes room: only now is it sure that the run goes on from what is there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in step_folder.list_unfinished(self._folder):
            step_folder.remove(path)
        for step in damaged:
            if (self._folder / str(step)).exists():
                step_folder.set_aside(self._folder / str(step))

    def _finish(
        self, step: int, partial: Path, meta: dict[str, Any], metric: str, score: float | None
    ) -> None:
        """Waits for the arrays, adds the rest, and gives the folder its name."""
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                write_json(partial / step_folder.META, meta)
                if score is not None:
                    write_json(partial / step_folder.METRICS, {metric: score})
                manifest.write_manifest(partial)
                step_folder.publish(partial, self._folder / str(step))
                self._prune(metric)
        except BaseException as error:
            self._fail(step, error)
        finally:
            logging.getLogger("absl").removeFilter(self._quiet)

    def _prune(self, metric: str) -> None:
        steps = step_folder.list_steps(self._folder)
        kept = {*steps[-self._keep :], self._catalogue.best_of(steps, metric)}
        for step in steps:
            if step not in kept:
                step_folder.remove(self._folder / str(step))

    def _fail(self, step: int, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # the rest of what fails with it
            self._orbax.wait_until_finished()
        self._sweep()
        self._failure, self._failed = (step, error), True

    def _sweep(self) -> None:
        """Deletes what a failed save has left, which would only keep the disk full.

        Threads of TensorStore may still be writing there, so it looks until nothing comes back.
        """
        quiet = 0
        for _ in range(_PATIENCE if jax.process_index() == 0 else 0):
            with contextlib.suppress(OSError):
                found = step_folder.list_unfinished(self._folder)
                for path in found:
                    step_folder.remove(path)
                quiet = 0 if found else quiet + 1
            if quiet == 2:
                return
            time.sleep(0.1)

    def check(self) -> None:
        """Tells, without waiting, whether a save that was started has failed.

        Raises:
          UserError: the disk is full or cannot be written. Earlier checkpoints are intact.
        """
        if self._failure is None:
            return
        (step, error), self._failure = self._failure, None
        reason = disk_reason(error, wrapped=True)
        if reason is None:
            raise error
        steps = step_folder.list_steps(self._folder)
        rest = f"; it goes on from step {steps[-1]}" if steps else ""
        raise UserError(
            f"checkpoint {step} could not be written to {self._folder}: {reason[0]}; {reason[1]} "
            f"and start the run again{rest}."
        ) from error

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          UserError: as `check`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Waits and releases the threads.

        Raises:
          UserError: as `check`.
        """
        try:
            self.wait()
        finally:
            if self._orbax is not None:
                with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                    self._orbax.close()
                self._orbax = None
            if self._failed:
                self._sweep()
