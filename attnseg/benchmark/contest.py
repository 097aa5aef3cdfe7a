"""Runs contestants in alternation, each in a process of its own, never two at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

from attnseg.benchmark.cases import KERAS, OURS, Case
from attnseg.core.errors import UserError

MODES = ("infer", "train")
PATIENCE = 1800.0  # seconds a contestant may take for an answer
_SAID = 300  # characters told of what a contestant said before it ended


def environment(who: str = OURS) -> dict[str, str]:
    """That of a process which shares the device with others."""
    ours = dict(os.environ, PYTHONUNBUFFERED="1")
    # On a GPU every process would claim most of the memory for itself.
    ours.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if who == KERAS:
        ours["KERAS_BACKEND"] = "jax"
        ours.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # KerasHub imports TensorFlow
    return ours


class Worker:
    """A contestant's process, ready to run.

    Raises:
      UserError: the process could not be started, ended, fell silent, or could not build the case.
    """

    def __init__(self, case: Case, who: str, python: str):
        command = [python, "-m", "attnseg.benchmark.worker", json.dumps(dataclasses.asdict(case))]
        self.who = who
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, see close
        try:
            self.process = subprocess.Popen(
                [*command, who],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                errors="replace",
                env=environment(who),
            )
        except OSError as error:
            self._said.close()
            raise UserError(f"{who}: {python} cannot be started: {error}.") from error
        self.about = self._answer()

    def _answer(self) -> dict:
        late = threading.Event()
        watch = threading.Timer(PATIENCE, lambda: (late.set(), self.process.kill()))
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = {"error": self._last_words(late.is_set(), line)}
        if "error" in answer:
            self.close()
            raise UserError(f"{self.who}: {answer['error']}")
        return answer

    def _last_words(self, late: bool, line: str) -> str:
        self.process.kill()
        code = self.process.wait()
        self._said.seek(0)
        lines = [text for text in self._said.read().splitlines() if text.strip()]
        said = line.strip() or (lines[-1] if lines else "nothing")
        why = f"no answer in {PATIENCE:.0f} s" if late else f"the process ended with {code}"
        return f"{why} (out of memory?); it said last: {said[-_SAID:]}"

    def ask(self, mode: str) -> dict:
        """Runs a mode some times, or tells "facts".

        Raises:
          UserError: as the class.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `_answer` tells of
            self.process.stdin.write(json.dumps({"mode": mode}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):  # closing writes what could not be written
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._said.close()


def _enter(case: Case, who: str, python: str, first: dict) -> tuple[Worker, dict]:
    """A worker and what is known of it.

    Raises:
      UserError: as `Worker`, or it does not run where the first one does.
    """
    worker = Worker(case, who, python)
    about = worker.about
    place = first.get("platform", about["platform"])
    if about["platform"] != place:
        worker.close()
        where = f"{about['platform']} ({about['device']})"
        raise UserError(f"{who} runs on a {where}, ours on a {place}.")
    return worker, about


def run_case(
    case: Case, rounds: int, peer_python: str | None, say: Callable[[str], None]
) -> list[dict]:
    """Times a case for us and its peers.

    Args:
      rounds: turns of each contestant in each mode, in alternation.
      peer_python: interpreter that has the peers installed; None is this one.

    Returns:
      One record a contestant: ``case``, ``who``, ``infer`` and ``train`` (seconds of each call),
      ``facts`` of each mode, ``parameters``, ``device``, ``platform``, ``resident``; or ``error``.
    """
    workers: list[tuple[Worker, dict]] = []
    records: list[dict] = []

    def drop(worker: Worker, record: dict, error: UserError) -> None:
        record["error"] = str(error)
        say(f"  {error}")
        workers.remove((worker, record))
        worker.close()

    try:
        for who in (OURS, *case.peers):
            python = sys.executable if who == OURS else peer_python or sys.executable
            record = {"case": dataclasses.asdict(case), "title": case.title, "who": who}
            records.append(record)
            try:
                worker, about = _enter(case, who, python, records[0])
            except UserError as error:
                record["error"] = str(error)
                say(f"  {error}")
                continue
            workers.append((worker, record))
            record.update(about)
            record.update({mode: [] for mode in MODES})
            say(f"  {who} ready after {record['ready_s']:.1f} s")
        for mode in (*MODES, "facts"):
            for _ in range(rounds if mode in MODES else 1):
                for worker, record in list(workers):
                    try:
                        answer = worker.ask(mode)
                    except UserError as error:
                        drop(worker, record, error)
                        continue
                    if mode in MODES:
                        record[mode].extend(answer["seconds"])
                    else:
                        record.update(answer)
            if mode in MODES:
                for _, record in workers:
                    say(f"  {record['who']} {mode} {statistics.median(record[mode]) * 1e3:.4g} ms")
    finally:
        for worker, _ in workers:
            worker.close()
    return records
