"""Checkpoints: state, data position, configuration and versions in one step directory."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from attnseg.core.errors import UserError
from attnseg.core.files import check_writable, write_json
from attnseg.training import step_folder
from attnseg.training.catalogue import Catalogue, Say
from attnseg.training.state import TrainState, weights_only
from attnseg.training.stored_state import DamagedError, read_arrays, saved_shapes
from attnseg.training.writer import Writer

__all__ = ["FOLDER", "Checkpoints", "versions", "write_json"]
FOLDER = "checkpoints"
LABELS = ("classes", "label_map")  # what the numbers in a checkpoint's output mean
PACKAGES = ("attnseg", "jax", "flax", "optax", "orbax-checkpoint", "grain")


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a checkpoint means."""
    return {name: metadata.version(name) for name in PACKAGES}


def check_labels(saved: dict[str, Any], now: dict[str, Any], what: str, names=LABELS) -> None:
    """Refuses labels that mean something else than those a checkpoint was trained with.

    Args:
      saved: ``meta`` of the checkpoint.
      now: "classes" and "label_map" of the data set as they would be stored.
      what: the run, for the message.
      names: what must be equal. To evaluate, the raw ids may differ; to train on, they may not.

    Raises:
      UserError: they differ; names the first class or raw id that does.
    """
    cure = "restore the class list it was trained with, or use another --workdir."
    if "classes" in names and saved["classes"] != now["classes"]:
        old, new = saved["classes"], now["classes"]
        at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
        found = f"{len(old)} classes, there are {len(new)} now"
        if at is not None:
            found = f'class {at} = "{old[at]}", which is "{new[at]}" now'
        raise UserError(f"{what} was trained with {found}; {cure}")
    if "label_map" in names and saved["label_map"] != now["label_map"]:
        old, new = saved["label_map"], now["label_map"]
        raw = min((r for r in old.keys() | new.keys() if old.get(r) != new.get(r)), key=int)
        raise UserError(
            f"{what} was trained with raw id {raw} -> {old.get(raw, 'refused')}, it is "
            f"{new.get(raw, 'refused')} now; {cure}"
        )


class _Unsaid(logging.Filter):
    """Drops Orbax's warning at each reading that there is no file of a kind we never write."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Metadata file does not exist" not in record.getMessage()


_UNSAID = _Unsaid()


class Checkpoints:
    """The checkpoints of a run, `WORKDIR/checkpoints/STEP/`.

    Each holds ``state`` (arrays, as Orbax writes them), ``meta`` (JSON: data position, best
    score so far, configuration, label map, versions), ``metrics`` (JSON, where it was evaluated)
    and ``MANIFEST.json`` with the checksum of each file. A checkpoint gets its name when all of
    it is on the disk, and only then are older ones deleted.

    Args:
      workdir: folder of the run.
      keep: how many of the latest to keep, besides the best.
      metric: name of the score that decides which is best; higher is better.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, metric: str = "miou"):
        self.metric = metric
        self.folder = Path(workdir).absolute() / FOLDER
        self._catalogue = Catalogue(self.folder)
        self._writer = Writer(self._catalogue, keep)
        self._reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        logging.getLogger("absl").addFilter(_UNSAID)
        self._best: dict[str, Any] | None = None

    def latest_step(self) -> int | None:
        """Step of the newest sound checkpoint, None without any.

        Raises:
          UserError: there are checkpoints, and all are damaged.
        """
        self._writer.wait()
        return max(self._catalogue.sound(), default=None)

    def best_step(self) -> int | None:
        """Step of the sound checkpoint with the best score; the newest if none was scored.

        Raises:
          UserError: there are checkpoints, and all are damaged.
        """
        self._writer.wait()
        return self._catalogue.best_of(self._catalogue.sound(), self.metric)

    def best_score(self) -> tuple[int, float] | None:
        """Step and score of the best evaluation up to the state that was saved or restored last.

        It is remembered when the checkpoint of that step is there no longer.
        """
        return (self._best["step"], self._best["value"]) if self._best else None

    def find(self, which: str, say: Say | None = None) -> int:
        """The step meant by "best", "latest" or a number.

        Args:
          say: takes a line for each damaged checkpoint that "best" or "latest" passes over, and
            which is used instead; default the log.

        Raises:
          UserError: it is not there, or a number names a damaged one.
        """
        self._writer.wait()
        return self._catalogue.find(which, self.metric, say)

    def save(
        self,
        state: TrainState,
        meta: dict[str, Any],
        metrics: dict[str, float],
        again: bool = False,
    ) -> None:
        """Starts writing `state` as the checkpoint of its step; returns before it is on disk.

        Args:
          again: in place of the one there is of this step, which stays until the new one is whole.

        Raises:
          UserError: the disk is full or cannot be written, now or when the last one was.
        """
        self._writer.wait()
        step = int(state.step)
        there = step in self._catalogue.steps() and self._catalogue.verdict(step).damage is None
        if there and not again:
            return
        value = float(metrics.get(self.metric, math.nan))
        scored = math.isfinite(value)
        if scored and (self._best is None or value >= self._best["value"]):
            self._best = {"metric": self.metric, "step": step, "value": value}
        meta = {**meta, "best": self._best}
        meta |= {"versions": versions(), "format": step_folder.FORMAT}
        self._writer.start(step, state, meta, self.metric, value if scored else None)

    def check(self) -> None:
        """Tells, without waiting, whether a save that was started has failed.

        Raises:
          UserError: the disk is full or cannot be written. Earlier checkpoints are intact.
        """
        self._writer.check()

    def close(self) -> None:
        """Waits for the last save and releases the threads.

        Raises:
          UserError: as `check`.
        """
        try:
            self._writer.close()
        finally:
            self._reader.close()

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          UserError: the checkpoint is damaged, or of a later release.
        """
        self._writer.wait()
        return self._catalogue.meta(step)

    def restore_newest(
        self,
        state: TrainState,
        shardings: TrainState,
        say: Say = print,
        accept: Callable[[dict[str, Any]], None] = lambda meta: None,
    ) -> TrainState | None:
        """The state to go on from: that of the newest checkpoint that is sound.

        Nothing on disk is changed before the first `save`, which sets damaged ones aside.

        Args:
          state, shardings: as for `restore`.
          say: takes a line for each damaged or half-written one and for what is worth knowing.
          accept: raises `UserError` if the run cannot go on from a checkpoint with this meta.

        Returns:
          None where the run has no checkpoint yet.

        Raises:
          UserError: none is sound, the newest sound one does not fit, or the folder cannot be
            written.
        """
        self._writer.wait()
        if jax.process_index() == 0:
            check_writable(self.folder)
            step_folder.recover(self.folder)
        for path in step_folder.list_unfinished(self.folder):
            if ".partial" in path.name or "orbax" in path.name:
                say(f"{path} was half-written when the run stopped and is not used")

        def passed_over(line: str) -> None:
            say(f"{line}; the next save sets it aside, with the ending .damaged")

        for step in reversed(self._catalogue.sound(passed_over)):
            meta = self._catalogue.meta(step)
            accept(meta)
            self._say_origin(step, meta, say)
            try:
                restored = self.restore(step, state, shardings)
            except DamagedError:
                continue
            self._catalogue.sound(passed_over)
            self._best = meta.get("best") or self._best_upto(step)
            return restored
        self._catalogue.sound(passed_over)
        return None

    def _best_upto(self, step: int) -> dict[str, Any] | None:
        """What release 0.1.0 knew of the best score: that of the best checkpoint it kept."""
        best = self._catalogue.best_of(
            [s for s in self._catalogue.sound() if s <= step], self.metric
        )
        value = step_folder.read_score(self.folder / str(best), self.metric)
        return None if value is None else {"metric": self.metric, "step": best, "value": value}

    def _say_origin(self, step: int, meta: dict[str, Any], say: Say) -> None:
        if not self._catalogue.verdict(step).verified:
            say(f"checkpoint {step} was made before checksums were kept; it is not verified")
        here, made = versions(), meta.get("versions", {})
        other = [name for name, version in made.items() if version != here.get(name)]
        if other:
            say(
                f"checkpoint {step} was made with {_listed(made, other)}; "
                f"here {'is' if len(other) == 1 else 'are'} {_listed(here, other)}"
            )

    def restore(self, step: int, state: TrainState, shardings: TrainState) -> TrainState:
        """Reads the state of `step` onto `shardings`, whatever devices it was saved from.

        Args:
          state: shapes and types to expect, as from `jax.eval_shape`.

        Raises:
          UserError: the checkpoint is damaged or does not fit `state`; names what differs.
        """
        target = jax.tree_util.tree_map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
        )
        return self._read(step, target)

    def restore_weights(self, step: int, variables: dict[str, Any], sharding) -> TrainState:
        """Reads what evaluation needs of `step`: the averaged parameters, if there are any.

        Args:
          variables: shapes as from `jax.eval_shape(model.init)`.
          sharding: where to put them.

        Raises:
          UserError: the checkpoint is damaged or does not fit the model; names what differs.
        """
        with self._reading(step) as path:
            saved = saved_shapes(self._reader, path)
        averaged = any(name.startswith("ema_params/") for name in saved)

        def target(tree: Any) -> Any:
            return jax.tree_util.tree_map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        wanted = {
            "ema_params" if averaged else "params": target(variables["params"]),
            "batch_stats": target(variables.get("batch_stats", {})),
        }
        restored = self._read(step, wanted, partial=True)
        return weights_only(
            {
                "params": restored["ema_params" if averaged else "params"],
                "batch_stats": restored["batch_stats"],
            }
        )

    def _read(self, step: int, target: Any, partial: bool = False) -> Any:
        with self._reading(step) as path:
            verified = self._catalogue.verdict(step).verified
            return read_arrays(self._reader, path, target, partial=partial, verified=verified)

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[Path]:
        """The folder of the arrays; remembers damage that shows only when they are read."""
        self._writer.wait()
        try:
            yield self._catalogue.require_sound(step) / step_folder.STATE
        except DamagedError as error:
            self._catalogue.condemn(step, str(error))
            why = self._catalogue.why(step)
            raise DamagedError(f"checkpoint {step} is damaged: {why}.") from error


def _listed(of: dict[str, str], names: list[str]) -> str:
    return ", ".join(f"{name} {of.get(name, 'missing')}" for name in names)
