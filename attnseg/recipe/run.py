"""Train and evaluate from a configuration: what the commands and notebooks call."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import UserError, check
from attnseg.core.types import IMAGE
from attnseg.objectives import ABSENT_POLICY
from attnseg.recipe import assemble
from attnseg.recipe.figures import Overlays, draw_figures
from attnseg.recipe.load import from_dict, load_config, to_dict
from attnseg.train import loop
from attnseg.train.checkpoint import FOLDER, Checkpoints, write_json
from attnseg.train.evaluate import evaluate as evaluate_batches
from attnseg.viz.table import class_table

CONFIG, RESULTS = "config.json", "results.json"
Say = Callable[[str], None]


def default_workdir(config: ConfigDict) -> Path:
    """``runs/MODEL-DATASET``."""
    return Path("runs") / f"{config.model.name}-{config.data.name}"


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Refuses a folder with a run of another model or data set."""
    path = workdir / CONFIG
    if not path.exists():
        return
    saved, current = _read_json(path), to_dict(config)
    for section, keys in (("model", ("name", "backbone", "head")), ("data", ("name",))):
        for key in keys:
            old, new = saved[section][key], current[section][key]
            check(
                old == new,
                f"{workdir} holds a run with {section}.{key}={old}, this one has {new}; "
                "choose another --workdir.",
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); choose another --workdir.") from error


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose a place or none."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path.home() / ".cache" / "attnseg" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked run: its data, its job and what to say about it."""

    config: ConfigDict
    workdir: Path
    train: data.Source
    val: data.Source
    job: loop.Job

    def describe(self) -> str:
        """The run in a few lines."""
        config, job = self.config, self.job
        shapes = loop.abstract_state(job)[0]
        size = sum(x.size for x in jax.tree_util.tree_leaves(shapes.params))
        epochs = job.steps * job.batch_size / len(self.train)
        return "\n".join(
            [
                f"workdir   {self.workdir}",
                f"model     {config.model.name}, {size:,} parameters, {config.model.dtype}",
                f"data      {config.data.name}: {len(self.train)} training examples, "
                f"{len(self.val)} of {config.eval.split}",
                f"training  {job.steps} steps of {job.batch_size} ({epochs:.1f} epochs), crop "
                f"{config.data.crop[0]}x{config.data.crop[1]}, lr {config.optim.lr:g}",
                f"devices   {job.mesh.size} ({jax.devices()[0].device_kind})",
            ]
        )


def _check_data(config: ConfigDict, source: data.Source, split: str, say: Say) -> None:
    """Refuses labels out of range and crops the images cannot fill, before anything compiles."""
    if config.data.scan:
        report = data.scan_labels(source, assemble.dataset_info(config), config.data.scan)
        say(f"labels of {split}, {report.files} files\n{report.table()}")
    if not config.data.pad:
        assemble.geometry(config).check_crop(source[0][IMAGE].shape[:2])


def plan(config: ConfigDict, workdir: str | Path | None = None, say: Say = print) -> Plan:
    """Builds and checks everything a run needs; computes and writes nothing in `workdir`.

    Raises:
      UserError: whatever is wrong with configuration, data, weights or `workdir`.
    """
    _use_compilation_cache()
    workdir = Path(workdir) if workdir else default_workdir(config)
    _check_workdir(config, workdir)
    assemble.build_task(config)
    say(f"opening {config.data.name}; what has to be prepared is prepared once")
    train_source = assemble.open_split(config, "train")
    val_source = assemble.open_split(config, config.eval.split)
    _check_data(config, train_source, "train", say)
    job = assemble.build_job(config, train=train_source, val=val_source, say=say)
    return Plan(config, workdir, train_source, val_source, job)


def train(
    config: ConfigDict, workdir: str | Path | None = None, *, say: Say = print
) -> dict[str, float]:
    """Trains, evaluates and leaves checkpoints, metrics, results and figures in `workdir`.

    A run that is there already is taken up where it stopped.

    Args:
      config: from `load_config`.
      workdir: default ``runs/MODEL-DATASET``.
      say: takes each line for the terminal.

    Returns:
      ``{"step": ..., "val/miou": ..., ...}`` of the last evaluation.

    Raises:
      UserError: see `plan` and `attnseg.train.loop.run`.
    """
    started = time.time()
    planned = plan(config, workdir, say)
    info, job = assemble.dataset_info(config), planned.job
    say(planned.describe())
    main = jax.process_index() == 0
    if main:
        write_json(planned.workdir / CONFIG, to_dict(config))
    overlays = Overlays(config, planned.val, job, planned.workdir)
    scores = loop.run(job, planned.workdir, on_evaluated=overlays, say=say)
    results = {f"{config.eval.split}/{k}": v for k, v in scores.items()}
    if main:
        record = {
            "step": job.steps,
            "split": config.eval.split,
            "metrics": results,
            "counting": ABSENT_POLICY,
            "seconds": round(time.time() - started, 1),
        }
        write_json(planned.workdir / RESULTS, record)
        draw_figures(planned.workdir, info, scores)
        say(class_table(scores, info.classes))
        say(f"results in {planned.workdir / RESULTS}, pictures in {planned.workdir / 'figures'}")
    return {"step": job.steps, **results}


def evaluate(
    config_or_workdir: ConfigDict | str | Path,
    *,
    workdir: str | Path | None = None,
    weights: str | None = None,
    split: str | None = None,
    checkpoint: str = "best",
    changes: dict[str, Any] | None = None,
    say: Say = print,
) -> dict[str, float]:
    """Scores of a checkpoint of a run, or of a weight file, on one split.

    Args:
      config_or_workdir: a run's folder, or a configuration together with `workdir` or `weights`.
      workdir: the run, when a configuration is given.
      weights: a weight file to evaluate in place of a checkpoint.
      split: default the configuration's ``eval.split``.
      checkpoint: "best", "latest" or a step.
      changes: dotted configuration keys that differ from the run's, e.g. ``data.root``.
      say: takes each line for the terminal.

    Returns:
      ``{"step": ..., "SPLIT/miou": ..., ...}``.

    Raises:
      UserError: no run or checkpoint there, or a split the data set has not.
    """
    _use_compilation_cache()
    if isinstance(config_or_workdir, ConfigDict):
        config = config_or_workdir
    elif ".py" in str(config_or_workdir):
        config = load_config(str(config_or_workdir), changes)
    else:
        workdir = Path(config_or_workdir)
        check(
            (workdir / CONFIG).is_file(),
            f"{workdir} holds no run ({CONFIG} is missing); give the folder that was trained in.",
        )
        config = from_dict(_read_json(workdir / CONFIG), changes)
    check(
        (workdir is None) != (weights is None),
        "give either the folder of a run or a weight file with its configuration.",
    )
    with config.unlocked():
        config.init.weights = weights
    split = split or config.eval.split
    source = assemble.open_split(config, split)
    job = assemble.build_job(config, train=source, val=source, say=say)
    step, state = _restore(job, workdir, checkpoint)
    eval_step = loop.jit_eval_step(job)
    scores = evaluate_batches(eval_step, job.task, state, job.eval_batches(), job.mesh)
    info = assemble.dataset_info(config)
    say(f"{split} of {info.name}, {len(source)} images, step {step}")
    say(class_table(scores, info.classes))
    return {"step": step, **{f"{split}/{k}": v for k, v in scores.items()}}


def _restore(job: loop.Job, workdir: str | Path | None, checkpoint: str):
    """The step and state to evaluate."""
    shapes, shardings = loop.abstract_state(job)
    if workdir is None:
        return 0, loop.initial_state(job, shardings)
    check((Path(workdir) / FOLDER).is_dir(), f"{workdir} has no {FOLDER}; train first.")
    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.find(checkpoint)
        return step, checkpoints.restore(step, shapes, shardings)
    finally:
        checkpoints.close()
