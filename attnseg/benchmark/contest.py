"""Runs contestants in alternation, each in a process of its own, never two at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from attnseg.benchmark.cases import KERAS, OURS, Case
from attnseg.core.errors import UserError

MODES = ("infer", "train")


class Worker:
    """A contestant's process, ready to run.

    Raises:
      UserError: the process ended, or could not build the case.
    """

    def __init__(self, case: Case, who: str, python: str):
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if who == KERAS:
            environment["KERAS_BACKEND"] = "jax"
        # On a GPU every process would claim most of the memory for itself.
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        command = [python, "-m", "attnseg.benchmark.worker", json.dumps(dataclasses.asdict(case))]
        self.who = who
        self.process = subprocess.Popen(
            [*command, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.about = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            code = self.process.returncode
            raise UserError(f"{self.who}: the process ended with {code} (out of memory?).")
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise UserError(f"{self.who}: {answer['error']}")
        return answer

    def ask(self, mode: str) -> dict:
        """Runs a mode once, or tells "facts"."""
        self.process.stdin.write(json.dumps({"mode": mode}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def run_case(
    case: Case, rounds: int, peer_python: str | None, say: Callable[[str], None]
) -> list[dict]:
    """Times a case for us and its peers.

    Args:
      rounds: turns of each contestant in each mode, in alternation.
      peer_python: interpreter that has the peers installed; None is this one.

    Returns:
      One record a contestant: ``case``, ``who``, ``infer`` and ``train`` (seconds of each call),
      ``facts`` of each mode, ``parameters``, ``device``, ``resident``; or ``error``.
    """
    workers, records = [], []
    try:
        for who in (OURS, *case.peers):
            python = sys.executable if who == OURS else peer_python or sys.executable
            record = {"case": dataclasses.asdict(case), "title": case.title, "who": who}
            records.append(record)
            try:
                worker = Worker(case, who, python)
            except UserError as error:
                record["error"] = str(error)
                say(f"  {error}")
                continue
            workers.append((worker, record))
            record.update(worker.about)
            record.update({mode: [] for mode in MODES})
            say(f"  {who} ready after {record['ready_s']:.1f} s")
        for mode in MODES:
            for _ in range(rounds):
                for worker, record in list(workers):
                    try:
                        record[mode].extend(worker.ask(mode)["seconds"])
                    except (UserError, KeyError, BrokenPipeError) as error:
                        record["error"] = str(error)
                        workers.remove((worker, record))
                        worker.close()
            for _, record in workers:
                say(f"  {record['who']} {mode} {statistics.median(record[mode]) * 1e3:.1f} ms")
        for worker, record in workers:
            record.update(worker.ask("facts"))
    finally:
        for worker, _ in workers:
            worker.close()
    return records
