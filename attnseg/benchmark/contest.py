"""Runs contestants in alternation, each in a process of its own, never two at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from attnseg.benchmark.cases import KERAS, OURS, Case
from attnseg.core.errors import UserError, check

MODES = ("infer", "train")
PATIENCE = 1800.0  # seconds a contestant may take for an answer
_SAID = 300  # characters told of what a contestant said before it ended


def environment(who: str = OURS) -> dict[str, str]:
    """That of a process which shares the device with others."""
    variables = dict(os.environ, PYTHONUNBUFFERED="1")
    # On a GPU every process would claim most of the memory for itself.
    variables.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if who == KERAS:
        variables["KERAS_BACKEND"] = "jax"
        variables.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # KerasHub imports TensorFlow
    return variables


class Worker:
    """A contestant's process, ready to run.

    Raises:
      UserError: the process could not be started, ended, fell silent, or could not build the case.
    """

    def __init__(self, case: Case, who: str, python: str, platform: str):
        module = [python, "-m", "attnseg.benchmark.worker"]
        command = [*module, json.dumps(dataclasses.asdict(case)), who, platform]
        self.who = who
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, see close
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                errors="replace",
                env=environment(who),
                start_new_session=True,  # what it starts, as a compiler, ends with it
            )
        except OSError as error:
            self._said.close()
            raise UserError(f"{who}: {python} cannot be started: {error}.") from error
        self.about = self._answer()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _answer(self) -> dict:
        try:
            answer = self._read()
            check("error" not in answer, f"{self.who}: {answer.get('error')}")
            return answer
        except BaseException:  # Ctrl-C, too, while it compiles
            self._kill()
            self.close()
            raise

    def _read(self) -> dict:
        late = threading.Event()
        watch = threading.Timer(PATIENCE, lambda: (late.set(), self._kill()))
        watch.daemon = True
        watch.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watch.cancel()
        if late.is_set() or not line:
            return {"error": self._last_words(late.is_set())}
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
        return {"error": f'"{line.strip()[:_SAID]}" is no answer'}

    def _last_words(self, late: bool) -> str:
        code = self._ended()
        if late:
            why = f"no answer in {PATIENCE:.0f} s"
        else:
            killed = " (out of memory?)" if code == -signal.SIGKILL else ""
            why = f"the process ended with {code}{killed}"
        self._said.seek(0)
        lines = [text for text in self._said.read().splitlines() if text.strip()]
        return f"{why}; it said last: {lines[-1][-_SAID:]}" if lines else why

    def ask(self, mode: str) -> dict:
        """Runs a mode some times, ``{"seconds": [...]}``, or tells "facts", as `worker` has them.

        Raises:
          UserError: as the class.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `_answer` tells of
            self.process.stdin.write(json.dumps({"mode": mode}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _ended(self) -> int:
        """The status of the process, which has half a minute to end."""
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._kill()
            return self.process.wait()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):  # closing writes what could not be written
            self.process.stdin.close()
        self._ended()
        self._kill()  # what it has started and left
        self.process.stdout.close()
        self._said.close()


def run_case(
    case: Case,
    rounds: int,
    peer_python: str | None,
    say: Callable[[str], None],
    platform: str = "cpu",
) -> list[dict]:
    """Times a case for us and its peers.

    Args:
      rounds: turns of each contestant in each mode, in alternation.
      peer_python: interpreter that has the peers installed; None is this one.
      say: takes lines of progress.
      platform: where ours runs, and peers have to.

    Returns:
      One record a contestant: ``case``, ``title``, ``who``, ``infer`` and ``train`` (seconds of a
      call in each measurement), ``facts`` of each mode, ``parameters``, ``device``, ``platform``,
      ``note``, ``ready_s``, ``resident``; or ``error``.
    """
    workers: list[tuple[Worker, dict]] = []
    records: list[dict] = []

    def failed(record: dict, error: UserError) -> None:
        record["error"] = str(error)
        say(f"  {error}")

    try:
        for who in (OURS, *case.peers):
            python = sys.executable if who == OURS else peer_python or sys.executable
            record = {"case": dataclasses.asdict(case), "title": case.title, "who": who}
            records.append(record)
            begun = time.perf_counter()
            try:
                worker = Worker(case, who, python, platform)
            except UserError as error:
                failed(record, error)
                continue
            workers.append((worker, record))
            record.update(worker.about, ready_s=time.perf_counter() - begun)
            record.update({mode: [] for mode in MODES})
            say(f"  {who} ready after {record['ready_s']:.1f} s")
        for mode in (*MODES, "facts"):
            for _ in range(rounds if mode in MODES else 1):
                for worker, record in list(workers):
                    try:
                        answer = worker.ask(mode)
                    except UserError as error:
                        failed(record, error)
                        workers.remove((worker, record))
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
