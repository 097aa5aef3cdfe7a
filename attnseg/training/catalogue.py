"""Which checkpoints a run has, which of them are sound, and which one is meant."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from attnseg.core.errors import check
from attnseg.core.gather import gather
from attnseg.training import step_folder
from attnseg.training.step_folder import Verdict

Say = Callable[[str], None]


def _warn(line: str) -> None:
    logging.getLogger("absl").warning(line)


def _of_first_process(find: Callable[[], Any]) -> Any:
    """What ``find()`` (JSON) gives in process 0, in every process of the job.

    So all processes of a job agree, and one of them reads the files for all.
    """
    return json.loads(gather(json.dumps(find()) if jax.process_index() == 0 else "")[0])


class Catalogue:
    """The finished checkpoints below `folder`, each compared with its checksums when it matters.

    Processes of a job must make the same calls in the same order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._verdicts: dict[int, Verdict] = {}
        self._told: set[int] = set()

    def steps(self) -> list[int]:
        """All steps there are, sound or not, rising."""
        return _of_first_process(lambda: step_folder.list_steps(self.folder))

    def verdict(self, step: int) -> Verdict:
        """What is known of a checkpoint; its files are read once."""
        if step not in self._verdicts:
            path = self.folder / str(step)
            self._verdicts[step] = Verdict(*_of_first_process(lambda: step_folder.judge(path)))
        return self._verdicts[step]

    def condemn(self, step: int, damage: str) -> None:
        """Notes what showed itself only when the arrays were read."""
        self._verdicts[step] = Verdict(damage, verified=False)

    def forget(self, step: int) -> None:
        """To be called when a step is written anew or goes."""
        self._verdicts.pop(step, None)

    def damaged(self) -> list[int]:
        """Steps that were looked at and found damaged."""
        return [step for step, verdict in self._verdicts.items() if verdict.damage is not None]

    def why(self, step: int) -> str:
        """What is wrong with a damaged checkpoint, and where it is."""
        return f"{self.verdict(step).damage}, in {self.folder / str(step)}"

    def sound(self, say: Say | None = None) -> list[int]:
        """Steps of the checkpoints that are as they were written, rising.

        Args:
          say: takes a line for each of the others, once; default the log.

        Raises:
          UserError: there are some, and all are damaged.
        """
        steps = self.steps()
        sound = [step for step in steps if self.verdict(step).damage is None]
        check(
            bool(sound) or not steps,
            f"every checkpoint in {self.folder} is damaged ("
            + "; ".join(f"{step}: {self.verdict(step).damage}" for step in reversed(steps))
            + "); put a copy back, or delete the folder to start anew.",
        )
        for step in reversed(steps):
            gone = not (self.folder / str(step)).is_dir()  # a run that goes on deletes old ones
            if step not in sound and step not in self._told and not gone:
                self._told.add(step)
                (say or _warn)(f"checkpoint {step} is damaged and passed over: {self.why(step)}")
        return sound

    def require_sound(self, step: int) -> Path:
        """The folder of a checkpoint.

        Raises:
          UserError: it is damaged.
        """
        if self.verdict(step).damage is not None:
            others = [s for s in self.steps() if self.verdict(s).damage is None]
            others = ", ".join(map(str, others)) or "none"
            check(False, f"checkpoint {step} is damaged: {self.why(step)}; sound ones: {others}.")
        return self.folder / str(step)

    def best_of(self, steps: list[int], metric: str) -> int | None:
        """The step with the highest score, the newest of equals; the newest if none has one."""
        scores = {step: step_folder.read_score(self.folder / str(step), metric) for step in steps}
        scored = [step for step in steps if scores[step] is not None]
        return max(scored, key=lambda s: (scores[s], s)) if scored else max(steps, default=None)

    def find(self, which: str, metric: str, say: Say | None = None) -> int:
        """See `Checkpoints.find`."""
        steps = self.steps()
        check(bool(steps), f"{self.folder} holds no complete checkpoint; train first.")
        if which not in ("best", "latest"):
            check(
                which.isdecimal() and int(which) in steps,
                f'there is no checkpoint "{which}" in {self.folder}; there are best, latest and '
                f"{', '.join(map(str, steps))}.",
            )
            self.require_sound(int(which))
            return int(which)
        sound = self.sound(say)
        step = self.best_of(sound, metric) if which == "best" else max(sound)
        if sound != steps:
            (say or _warn)(f"of the sound checkpoints the {which} is {step}")
        return step

    def meta(self, step: int) -> dict[str, Any]:
        """See `Checkpoints.meta`."""
        meta = step_folder.read_meta(self.require_sound(step))
        made = meta.get("format", 0)
        check(
            made <= step_folder.FORMAT,
            f"{self.folder / str(step)} has format {made}, this release reads up to "
            f"{step_folder.FORMAT}; install attnseg {meta.get('versions', {}).get('attnseg')}.",
        )
        return meta
