"""Several runs side by side: their curves and a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from attnseg.core.errors import UserError, check, did_you_mean
from attnseg.models import zoo
from attnseg.recipe import assemble
from attnseg.recipe.load import from_dict
from attnseg.recipe.run import CONFIG, RESULTS
from attnseg.training.checkpoint import FOLDER, Checkpoints
from attnseg.training.log import FILE, read_metrics
from attnseg.viz.compare import plot_runs
from attnseg.viz.table import columns

BEST = {"segmentation": "miou", "classification": "top1"}


class Run(NamedTuple):
    """What a folder tells of a run.

    Attributes:
      name: of the folder, as short as still tells the runs apart.
      records: of ``metrics.jsonl``.
      config: as saved in ``config.json``.
      task: segmentation or classification.
    """

    name: str
    folder: Path
    records: list[dict[str, Any]]
    config: dict[str, Any]
    task: str


def compare(
    folders: Sequence[str],
    output: str | None = None,
    *,
    split: str | None = None,
    metric: str | None = None,
    say=print,
) -> list[dict[str, Any]]:
    """Draws the curves of some runs and prints a table of them.

    Args:
      folders: of runs of one task on one data set.
      output: the PNG; None draws nothing.
      split: of the scores; default the one all runs were evaluated on.
      metric: ``miou``, ``iou/road``, ...; default mIoU or top-1.

    Returns:
      A row for each run: ``run``, ``model``, ``parameters``, ``steps``, ``final``, ``best``,
      ``best_step``, ``images_per_second``, ``seconds``; None where it is not known.

    Raises:
      UserError: a folder without a run, the same one twice, runs of other data or tasks, or
        without scores of the split; or the metric was not recorded.
    """
    check(len(folders) >= 1, "give at least one folder of a run.")
    runs = _open(folders)
    _one(runs, "data.name", lambda r: r.config["data"]["name"], "choose runs of one data set")
    _one(runs, "task", lambda r: r.task, "choose runs of one task")
    split = split or _one(
        runs, "eval.split", lambda r: r.config["eval"]["split"], "name one with --split=SPLIT"
    )
    score = f"{split}/{metric or BEST[runs[0].task]}"
    for run in runs:
        names = {name for record in run.records for name in record}
        check(
            score in names,
            f"{run.folder / FILE} has no {score}.{did_you_mean(score, names)} It was evaluated on "
            f"{', '.join(sorted(_splits(run))) or 'nothing yet'}.",
        )
    rows = [_row(run, score) for run in runs]
    if output:
        plot_runs({run.name: run.records for run in runs}, output, score)
    say(_table(rows, score))
    if output:
        say(f"written to {output}")
    return rows


def _open(folders: Sequence[str]) -> list[Run]:
    paths = [Path(folder) for folder in folders]
    places = {path.resolve() for path in paths}
    check(len(places) == len(paths), "a run is given twice; give each folder once.")
    names = _short([path.absolute() for path in paths])
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _short(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(folder: Path, name: str) -> Run:
    path = folder / CONFIG
    check(path.is_file(), f"{folder} holds no run ({CONFIG} is missing); give folders of runs.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        task = zoo.find_spec(config["model"]["name"]).task
        config["data"]["name"], config["eval"]["split"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a configuration of attnseg ({error}).") from error
    return Run(name, folder, read_metrics(folder / FILE), config, task)


def _one(runs: Sequence[Run], what: str, value: Callable[[Run], str], mend: str) -> str:
    """The value all runs share."""
    found = {run.name: value(run) for run in runs}
    told = ", ".join(f"{name}: {v}" for name, v in found.items())
    check(len(set(found.values())) == 1, f"the runs differ in {what} ({told}); {mend}.")
    return next(iter(found.values()))


def _splits(run: Run) -> set[str]:
    return {record["split"] for record in run.records} - {"train"}


def _row(run: Run, score: str) -> dict[str, Any]:
    values = [(r["step"], r[score]) for r in run.records if r.get(score) is not None]
    best = max(values, key=lambda pair: pair[1], default=(None, None))
    rates = [r.get("train/images_per_second") for r in run.records]
    rates = [rate for rate in rates if rate is not None and math.isfinite(rate)]
    return {
        "run": run.name,
        "model": run.config["model"]["name"],
        "parameters": _parameters(run),
        "steps": max(r["step"] for r in run.records),
        "final": values[-1][1] if values else None,
        "best": best[1],
        "best_step": best[0],
        # The first windows hold compiling.
        "images_per_second": statistics.median(rates) if rates else None,
        "seconds": _seconds(run.folder / RESULTS),
    }


def _parameters(run: Run) -> int | None:
    """Counted by shapes; the classes are known from a checkpoint, where there is one."""
    if not (run.folder / FOLDER).is_dir():
        return None
    checkpoints = Checkpoints(run.folder)
    try:
        step = checkpoints.latest_step()
        if step is None:
            return None
        classes = len(checkpoints.meta(step)["classes"])
    finally:
        checkpoints.close()
    config = from_dict(run.config)
    init = assemble.init_function(config, assemble.build_model(config, classes))
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    return sum(x.size for x in jax.tree_util.tree_leaves(params))


def _seconds(path: Path) -> float | None:
    """Wall time of the last start of a run that has ended."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("seconds")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no results ({error}); remove it or train again.") from error


def _table(rows: Sequence[dict[str, Any]], score: str) -> str:
    def told(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = [
        [
            row["run"],
            row["model"],
            told(row["parameters"] and row["parameters"] / 1e6, ".2f"),
            str(row["steps"]),
            told(row["final"], ".4f"),
            told(row["best"], ".4f"),
            told(row["best_step"], "d"),
            told(row["images_per_second"], ".1f"),
            told(row["seconds"], ".0f"),
        ]
        for row in rows
    ]
    heads = ["run", "model", "params (M)", "steps", f"{score}, final", "best", "at step"]
    return columns([*heads, "images/s", "seconds"], cells, left=2)
