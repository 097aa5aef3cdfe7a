"""Train and evaluate from a configuration: what the commands and notebooks call."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core import memory, processes
from attnseg.core.compiler import run_in_caller
from attnseg.core.errors import UserError, check
from attnseg.core.mesh import replicated
from attnseg.core.types import SIZE
from attnseg.recipe import assemble
from attnseg.recipe.figures import Overlays, draw_figures
from attnseg.recipe.load import from_dict, leaves, load_config, to_dict
from attnseg.recipe.report import RESULTS, write_report
from attnseg.training import loop
from attnseg.training.checkpoint import FOLDER, Checkpoints, check_labels, write_json
from attnseg.training.evaluate import Evaluation, jit_eval_step
from attnseg.training.evaluate import evaluate as evaluate_batches
from attnseg.training.state import TrainState, weights_only
from attnseg.viz.table import class_table
from attnseg.weights import load_weights

CONFIG = "config.json"
EVALUATIONS = "evaluation"  # folder of a run's evaluations besides that of training
Say = Callable[[str], None]


def default_workdir(config: ConfigDict) -> Path:
    """``runs/CONFIG-DATASET``."""
    return Path("runs") / config.name


# Fields of a network that may change within a run: they leave the parameters as they are.
_FREE_FIELDS = ("remat", "dropout", "drop_path")


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Refuses a folder with a run of another model or data set."""
    path = workdir / CONFIG
    if not path.exists():
        return
    saved = leaves(_read_config(path))
    for key, new in leaves(config).items():
        section, _, field = key.rpartition(".")
        fixed = section in ("model.backbone", "model.head") and field not in _FREE_FIELDS
        if fixed or key in ("model.name", "data.name"):
            old = saved.get(key)
            check(
                old == new,
                f"{workdir} holds a run with {key}={old}, this one has {new}; "
                "choose another --workdir.",
            )


def _read_config(path: Path, changes: dict[str, Any] | None = None) -> ConfigDict:
    """The configuration in a run's ``config.json``, with `changes`."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        name = saved["model"]["name"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} is not a configuration of attnseg; choose another --workdir."
        ) from error
    try:
        return from_dict(saved, changes)
    except UserError as error:
        raise UserError(f"{path} (a run of {name}): {error}") from error


def _cores() -> int:
    """How many XLA divides a program of a CPU for."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose a place or none.

    In a folder for each number of cores: XLA divides a program among them, but the key under which
    JAX keeps it leaves them out, and a program for one core is slow on many.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path.home() / ".cache" / "attnseg" / f"xla_{_cores()}_cores"
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
        epochs = job.steps / data.steps_per_epoch(self.train, job.batch_size)
        return "\n".join(
            [
                f"model     {config.model.name}, {size:,} parameters, {config.model.dtype}",
                f"data      {config.data.name}: {len(self.train)} training examples, "
                f"{len(self.val)} of {config.eval.split}",
                f"training  {job.steps} steps of {job.batch_size} ({epochs:.1f} epochs), crop "
                f"{config.data.crop[0]}x{config.data.crop[1]}, lr {config.optim.lr:g}",
                f"devices   {job.evaluation.mesh.size} ({jax.devices()[0].device_kind})",
            ]
        )


def _check_data(config: ConfigDict, source: data.Source, split: str, say: Say) -> None:
    """Refuses labels out of range before anything compiles."""
    if config.data.scan:
        info, most = assemble.dataset_info(config), assemble.max_skipped(config)
        report = data.scan_labels(source, info, config.data.scan, most or 0)
        say(f"labels of {split}, {report.describe(len(source))}")


def _check_crop(config: ConfigDict, source: data.Source) -> None:
    """Refuses crops that the images cannot fill, where they may not be padded."""
    if not config.data.pad:
        source = assemble.readable(config, source)
        sizes = {tuple(source[index][SIZE].tolist()) for index in range(len(source))}
        for size in sorted(sizes):
            assemble.geometry(config).check_crop(size)


def plan(config: ConfigDict, workdir: str | Path | None = None, say: Say = print) -> Plan:
    """Builds and checks everything a run needs; computes and writes nothing in `workdir`.

    Raises:
      UserError: whatever is wrong with configuration, data, weights or `workdir`.
    """
    workdir = Path(workdir) if workdir else default_workdir(config)
    say(f"workdir {workdir}")
    use_compilation_cache()
    if config.init.weights and (workdir / CONFIG).exists():
        # The run has begun: what the weights' layout implied is part of its configuration.
        config.model.backbone.layout = _read_config(workdir / CONFIG).model.backbone.layout
    elif config.init.weights:
        assemble.with_layout(config, say)
    _check_workdir(config, workdir)
    assemble.build_task(config)
    folder = data.prepared_folder(config.data.prepared)
    say(f"opening {config.data.name}; the first time it is prepared, in {folder}")
    say(assemble.dataset_info(config).describe_labels())
    with processes.main_first():  # it prepares and checks, and the others find that done
        train_source = assemble.open_split(config, "train")
        val_source = assemble.open_split(config, config.eval.split)
        _check_crop(config, train_source)
        _check_data(config, train_source, "train", say)
        _check_data(config, val_source, config.eval.split, say)
        train_source = assemble.cached(config, train_source)
        val_source = assemble.cached(config, val_source)
        for source in (train_source, val_source):
            if isinstance(source, data.Decoded):
                say(source.describe())
    job = assemble.build_job(config, train=train_source, val=val_source)
    return Plan(config, workdir, train_source, val_source, job)


@memory.keep_freed()
def train(
    config: ConfigDict, workdir: str | Path | None = None, *, say: Say = print
) -> dict[str, float]:
    """Trains, evaluates and leaves checkpoints, metrics, results and figures in `workdir`.

    A run that is there already is taken up where it stopped. If jax has not started yet and runs on
    a CPU, this process's programs run in the thread that calls them from now on.

    Args:
      config: from `load_config`.
      workdir: default ``runs/CONFIG-DATASET``.
      say: takes each line for the terminal.

    Returns:
      ``{"step": ..., "val/miou": ..., ...}`` of the last evaluation.

    Raises:
      UserError: see `plan` and `attnseg.training.loop.run`.
      Stopped: SIGTERM or SIGINT came; all is saved, and calling this again goes on.
    """
    started = time.time()
    run_in_caller()
    main = processes.index() == 0
    say = say if main else _silent
    planned = plan(config, workdir, say)
    workdir, job = planned.workdir, planned.job
    say(planned.describe())
    say("compiling, then training; the first step takes longest")
    overlays = Overlays(config, planned.val, job, workdir)

    def on_started(step: int) -> None:
        # Only now: a run that cannot go on leaves what is there as it was.
        if main:
            write_json(workdir / CONFIG, to_dict(config))

    step, scores = loop.run(job, workdir, on_started=on_started, on_evaluated=overlays, say=say)
    results = {f"{config.eval.split}/{k}": v for k, v in scores.items()}
    if main:
        info = assemble.dataset_info(config)
        seconds = round(time.time() - started, 1)  # of this start
        split, evaluation = config.eval.split, job.evaluation
        write_report(workdir, evaluation, scores, split=split, step=step, seconds=seconds)
        headline = f"{config.eval.split}/{job.evaluation.task.best}"
        draw_figures(workdir, info, scores, headline)
        say(class_table(scores, info.classes))
        say(f"results in {workdir / RESULTS}, pictures in {workdir / 'figures'}")
    return {"step": step, **results}


def _silent(_: str) -> None:
    """For the processes of a job that do not speak."""


@memory.keep_freed()
def evaluate(
    config_or_workdir: ConfigDict | str | Path,
    *,
    weights: str | None = None,
    split: str | None = None,
    checkpoint: str = "best",
    changes: dict[str, Any] | None = None,
    output: str | Path | None = None,
    say: Say = print,
) -> dict[str, float]:
    """Scores of a checkpoint of a run, or of a weight file, on one split.

    Args:
      config_or_workdir: a run's folder; or, with `weights`, a configuration or its file.
      weights: a weight file to evaluate in place of a checkpoint.
      split: default the configuration's ``eval.split``.
      checkpoint: "best", "latest" or a step.
      changes: dotted configuration keys that differ, e.g. ``data.root`` or ``eval.mode``.
      output: folder for what `attnseg.recipe.report.write_report` writes; default
        ``WORKDIR/evaluation/SPLIT``, and nothing of a weight file.
      say: takes each line for the terminal.

    Returns:
      ``{"step": ..., "SPLIT/miou": ..., ...}``.

    Raises:
      UserError: no run or checkpoint there, weights that do not fill the model, or a split the
        data set has not.
    """
    use_compilation_cache()
    say = say if jax.process_index() == 0 else _silent
    if weights is None:
        workdir = Path(config_or_workdir)
        check(
            (workdir / CONFIG).is_file(),
            f"{workdir} holds no run ({CONFIG} is missing); give the folder that was trained in.",
        )
        config = _read_config(workdir / CONFIG, changes)
    elif isinstance(config_or_workdir, ConfigDict):
        # Not a plain copy: that forgets the types of keys without a value.
        changes = {**(changes or {}), "init.weights": str(weights)}
        config = from_dict(to_dict(config_or_workdir), changes)
    else:
        changes = {**(changes or {}), "init.weights": str(weights)}
        config = load_config(str(config_or_workdir), changes)
    split = split or config.eval.split
    say = say if processes.index() == 0 else _silent
    with processes.main_first():
        source = assemble.open_split(config, split)
        _check_data(config, source, split, _silent)
    if weights is None:
        evaluation = assemble.build_evaluation(config, source)
        labels = assemble.data_meta(config)
        step, state = _restore(evaluation, workdir, checkpoint, labels, say)
    else:
        assemble.with_layout(config, say)
        evaluation = assemble.build_evaluation(config, source)
        step, state = 0, _from_weights(evaluation, config)
    scores = evaluate_batches(evaluation, jit_eval_step(evaluation), state)
    info = assemble.dataset_info(config)
    say(f"{split} of {info.name}, {len(source)} images, step {step}")
    say(class_table(scores, info.classes))
    say(_programs(scores.programs))
    if output is None and weights is None:
        output = workdir / EVALUATIONS / split
    if output is not None:
        write_report(Path(output), evaluation, scores, split=split, step=step)
        say(f"results, scores of each image and confusion matrix in {output}")
    return {"step": step, **{f"{split}/{k}": v for k, v in scores.items()}}


MANY_PROGRAMS = 12


def _programs(count: int) -> str:
    line = f"{count} program{'s' * (count != 1)} compiled"
    if count > MANY_PROGRAMS:
        line += ", for images of many sizes; --config.eval.bucket=64 makes do with fewer"
    return line


def _restore(
    evaluation: Evaluation, workdir: Path, checkpoint: str, labels: dict[str, Any], say: Say
) -> tuple[int, TrainState]:
    """The step and the state to evaluate, without the optimizer."""
    check((workdir / FOLDER).is_dir(), f"{workdir} has no {FOLDER}; train first.")
    checkpoints = Checkpoints(workdir, metric=evaluation.task.best)
    try:
        step = checkpoints.find(checkpoint, say)
        check_labels(checkpoints.meta(step), labels, f"the run in {workdir}", ("classes",))
        variables = jax.eval_shape(evaluation.init, jax.random.key(0))
        return step, checkpoints.restore_weights(step, variables, replicated(evaluation.mesh))
    finally:
        checkpoints.close()


def _from_weights(evaluation: Evaluation, config: ConfigDict) -> TrainState:
    """A state with the weights of a file."""
    variables, report = load_weights(assemble.build_model(config), config.init.weights)
    check(
        not report.skipped,
        f"{config.init.weights} does not fill {', '.join(sorted(report.skipped)[:3])}; a model "
        "with random parts has no score. Choose the configuration the weights were made for.",
    )
    state = weights_only(variables)
    return jax.device_put(state, replicated(evaluation.mesh))
