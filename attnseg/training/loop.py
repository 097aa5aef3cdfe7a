"""The training loop. Everything arrives as objects and functions; no configuration, no names.

Order within one iteration, which resuming relies on: take batch number `step`, update, log,
evaluate, save. A checkpoint of step s therefore follows s updates and s batches.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax

from attnseg.core.errors import UserError, check
from attnseg.core.mesh import batch_sharding, replicated, state_shardings
from attnseg.core.types import Batch, Outputs
from attnseg.training.checkpoint import Checkpoints, check_labels
from attnseg.training.evaluate import Evaluation, evaluate, jit_eval_step, to_device
from attnseg.training.log import MetricLog, Progress
from attnseg.training.state import TrainState, create_state
from attnseg.training.step import make_train_step

Variables = dict[str, Any]
Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training run, ready to start.

    Attributes:
      evaluation: network, task and evaluation split.
      import_weights: ``variables -> variables`` with imported weights in place; None: at random.
      apply_train: ``(params, batch_stats, images, key) -> (outputs, batch_stats)``.
      tx, schedule: optimizer and its learning rate.
      train_batches: ``first step -> batches``, endless; the order is a function of the step.
      batch_size, steps, seed, accumulate, ema: as in the configuration.
      log_every, eval_every, checkpoint_every, keep: intervals in steps; checkpoints kept.
      split: name of the evaluation split.
      meta: stored in every checkpoint.
    """

    evaluation: Evaluation
    import_weights: Callable[[Variables], Variables] | None
    apply_train: Callable[..., tuple[Outputs, Any]]
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    train_batches: Callable[[int], Iterator[Batch]]
    batch_size: int
    steps: int
    seed: int
    accumulate: int
    ema: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int
    split: str
    meta: dict[str, Any]


def _create(job: Job) -> Callable[[jax.Array], TrainState]:
    return lambda key: create_state(job.evaluation.init(key), job.tx, bool(job.ema))


def abstract_state(job: Job) -> tuple[TrainState, TrainState]:
    """Shapes of the state and where each array lives, without computing anything."""
    shapes = jax.eval_shape(_create(job), jax.random.key(job.seed))
    return shapes, state_shardings(job.evaluation.mesh, shapes)


def initial_state(job: Job, shardings: TrainState) -> TrainState:
    """The state before step 0, split over the mesh."""
    key = jax.random.key(job.seed)
    if job.import_weights is None:
        return jax.jit(_create(job), out_shardings=shardings)(key)
    variables = jax.device_get(job.import_weights(jax.jit(job.evaluation.init)(key)))

    def create(variables: Variables) -> TrainState:
        return create_state(variables, job.tx, bool(job.ema))

    return jax.jit(create, out_shardings=shardings)(variables)


def jit_train_step(job: Job, shardings: TrainState):
    """The train step compiled for the mesh, with the old state's memory reused."""
    step = make_train_step(
        job.apply_train,
        job.evaluation.task,
        job.tx,
        job.schedule,
        seed=job.seed,
        accumulate=job.accumulate,
        ema=job.ema,
    )
    mesh = job.evaluation.mesh
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def _start(
    job: Job, checkpoints: Checkpoints, shardings: TrainState, say: Callable[[str], None]
) -> TrainState:
    """The state of the newest sound checkpoint, or the initial one."""

    def accept(saved: dict[str, Any]) -> None:
        for name, value in (("seed", job.seed), ("batch_size", job.batch_size)):
            # The data position is a number of batches: it means nothing for others.
            check(
                saved[name] == value,
                f"the run in {checkpoints.folder.parent} was started with {name} {saved[name]}, "
                f"not {value}; keep it, or choose another --workdir.",
            )
        check_labels(saved, job.meta, f"the run in {checkpoints.folder.parent}")

    state = checkpoints.restore_newest(abstract_state(job)[0], shardings, say, accept)
    return initial_state(job, shardings) if state is None else state


def _finite(metrics: dict[str, jax.Array], step: int) -> Scores:
    """The step's metrics as numbers.

    Raises:
      UserError: the loss or the gradient is not finite.
    """
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
    if bad:
        raise UserError(
            f"{bad[0]} is {values[bad[0]]} at step {step} (lr {values['lr']:.2e}); no checkpoint "
            "was written since it was finite. Lower optim.lr, lengthen schedule.warmup_steps or "
            "set optim.clip_norm."
        )
    return values


def run(
    job: Job,
    workdir: str | Path,
    *,
    on_started: Callable[[int], None] = lambda _: None,
    on_evaluated: Callable[[MetricLog, int, TrainState], None] = lambda *_: None,
    say: Callable[[str], None] = print,
) -> tuple[int, Scores]:
    """Trains from the newest checkpoint in `workdir`, or from the start, to the last step.

    Args:
      job: the run.
      workdir: where checkpoints and metrics go.
      on_started: called with the first step once the state is there.
      on_evaluated: called with (log, step, state) after each evaluation, e.g. to draw overlays.
      say: takes each line for the terminal.

    Returns:
      The last step and the scores of its evaluation.

    Raises:
      UserError: a checkpoint that does not fit, or a loss that is not finite.
    """
    mesh = job.evaluation.mesh
    checkpoints = Checkpoints(workdir, keep=job.keep, metric=job.evaluation.task.best)
    log = batches = None
    try:
        shardings = abstract_state(job)[1]
        state = _start(job, checkpoints, shardings, say)
        step = start = int(state.step)
        if start:
            say(f"resumed from step {start} of {job.steps}")
        on_started(start)
        train_step, eval_step = jit_train_step(job, shardings), jit_eval_step(job.evaluation)
        log = MetricLog(workdir, resume_step=start, active=jax.process_index() == 0)
        progress = Progress(job.steps, job.batch_size, start_step=start)
        batches = job.train_batches(start)
        tally = getattr(batches, "tally", None)
        if tally is not None and start:
            tally.failed.update(checkpoints.meta(start).get("skipped", ()))
        scores: Scores = {}
        waited = 0.0
        metrics = None
        for step in range(start + 1, job.steps + 1):
            asked = time.perf_counter()
            batch = to_device(next(batches), mesh)
            # Loading that the previous step outlasts keeps nobody waiting.
            if metrics is None or metrics["loss"].is_ready():
                waited += time.perf_counter() - asked
            jax.block_until_ready(metrics)  # no more than two batches lie on the device
            state, metrics = train_step(state, batch)

            last = step == job.steps
            logged = step % job.log_every == 0 or last
            evaluated = step % job.eval_every == 0 or last
            saved = step % job.checkpoint_every == 0 or evaluated
            values = _finite(metrics, step) if logged or saved else {}
            if logged and tally is not None:
                values["skipped"] = len(tally.failed)
            if logged:
                checkpoints.check()  # a disk that is full stops the run soon, not at the next save
                say(progress.line(step, values, waited))
                log.write(step, "train", values | progress.rates)
                waited = 0.0
            progress.pause()
            if evaluated:
                scores = evaluate(job.evaluation, eval_step, state)
                log.write(step, job.split, scores)
                say(f"step {step}: {_headline(job.split, scores)}")
                on_evaluated(log, step, state)
            if saved:
                position = {"batches": step, "seed": job.seed, "batch_size": job.batch_size}
                if tally is not None:
                    position["skipped"] = sorted(tally.failed)
                checkpoints.save(state, {**job.meta, **position}, scores if evaluated else {})
            progress.resume()
        if not scores:  # the run was complete before it started
            scores = evaluate(job.evaluation, eval_step, state)
        return step, scores
    finally:
        for resource in (batches, log, checkpoints):
            if resource is not None:
                resource.close()


def _headline(split: str, scores: Scores) -> str:
    return "  ".join(f"{split} {k} {v:.4f}" for k, v in scores.items() if "/" not in k)
