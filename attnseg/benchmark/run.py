"""A benchmark from beginning to end."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax

from attnseg.benchmark import ours, report, roofline, targets
from attnseg.benchmark.cases import Case
from attnseg.benchmark.contest import run_case
from attnseg.core.errors import check


def _heading(records: list[dict]) -> str:
    devices = dict.fromkeys(r["device"] for r in records if "device" in r)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    place = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{'; '.join([*devices, place, day])}."


def _write(output: Path, table: str, saved: dict) -> None:
    output.with_suffix(".md").write_text(table, encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(saved, indent=1), encoding="utf-8")


def compile_for(
    cases: list[Case], name: str, output: Path, *, say: Callable[[str], None] = print
) -> Path:
    """Compiles the cases for a GPU that need not be here, and writes ``OUTPUT.md`` and ``.json``.

    Args:
      cases: what to compile; ours alone, whatever the peers.
      name: a name of `targets.TARGETS`.
      output: path of the tables, without ending.
      say: takes lines of progress.

    Returns:
      The path of the table, with XLA's account of each program's memory.

    Raises:
      UserError: an unknown GPU, or JAX without CUDA.
    """
    device = targets.target(name)
    heading = f"compiled for {device.device_kind}, jax {jax.__version__}, on {_heading([])}"
    records: list[dict] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    for index, case in enumerate(cases, start=1):
        say(f"{index}/{len(cases)} {case.title}")
        record = {"title": case.title, "facts": {}, "parameters": 0}
        records.append(record)
        try:
            made = ours.build(case, device)
            record["facts"], record["parameters"] = made.facts, made.parameters
        except Exception as error:  # told in the row; the others go on
            record["error"] = f"{type(error).__name__}: {error}"[:300]
            say(f"  {record['error']}")
        table = report.memory_table(records, heading)
        _write(output, table, {"heading": heading, "records": records})
    return output.with_suffix(".md")


def run(
    cases: list[Case],
    output: Path,
    *,
    rounds: int = 5,
    peer_python: str | None = None,
    platform: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Measures the cases, one after the other, and writes ``OUTPUT.md`` and ``OUTPUT.json``.

    Both files are written anew after every case, so that a run that is ended keeps what it has.

    Args:
      cases: what to measure.
      output: path of the tables, without ending.
      rounds: turns of each contestant in each pass.
      peer_python: interpreter that has the peers; None is this one.
      platform: "cpu" or "gpu", where the cases are meant for one of them.
      say: takes lines of progress.

    Returns:
      The path of the table.

    Raises:
      UserError: JAX runs on another platform, or what the machine can do cannot be measured.
    """
    here, limits = roofline.measure_apart()
    check(
        platform in (None, here),
        f"these cases are for a {platform}, and JAX runs on a {here}; pip install "
        f"'attnseg[cuda12]' gives it a GPU, JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= before the "
        f"command keeps all from one.",
    )
    records: list[dict] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    for index, case in enumerate(cases, start=1):
        say(f"{index}/{len(cases)} {case.title}")
        records += run_case(case, rounds, peer_python, say, here)
        heading = _heading(records)
        table = report.markdown(records, limits, heading, here)
        _write(output, table, {"limits": limits, "heading": heading, "records": records})
    return output.with_suffix(".md")
