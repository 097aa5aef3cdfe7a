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
from jax.sharding import Mesh

from attnseg.core.errors import UserError
from attnseg.core.mesh import batch_sharding, replicated, state_shardings
from attnseg.core.types import Batch, Outputs
from attnseg.train.checkpoint import Checkpoints
from attnseg.train.evaluate import evaluate, to_device
from attnseg.train.log import MetricLog, Progress
from attnseg.train.state import TrainState, create_state
from attnseg.train.step import Task, make_eval_step, make_train_step

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training run, ready to start.

    Attributes:
      init: ``key -> variables`` at random.
      import_weights: ``variables -> variables`` with imported weights in place, or None.
      apply_train: ``(params, batch_stats, images, key) -> (outputs, batch_stats)``.
      apply_eval: ``(params, batch_stats, images) -> outputs``.
      task: inputs, loss, counts.
      tx, schedule: optimizer and its learning rate.
      train_batches: ``first step -> batches``, endless; the order is a function of the step.
      eval_batches: a fresh pass over the evaluation split, padded.
      batch_size, steps, seed, accumulate, ema: as in the configuration.
      log_every, eval_every, checkpoint_every, keep: intervals in steps; checkpoints kept.
      mesh: the devices.
      meta: stored in every checkpoint.
    """

    init: Callable[[jax.Array], Variables]
    import_weights: Callable[[Variables], Variables] | None
    apply_train: Callable[..., tuple[Outputs, Any]]
    apply_eval: Callable[..., Outputs]
    task: Task
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    train_batches: Callable[[int], Iterator[Batch]]
    eval_batches: Callable[[], Iterator[Batch]]
    batch_size: int
    steps: int
    seed: int
    accumulate: int
    ema: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int
    mesh: Mesh
    meta: dict[str, Any]


def abstract_state(job: Job) -> tuple[TrainState, TrainState]:
    """Shapes of the state and where each array lives, without computing anything."""

    def create(key: jax.Array) -> TrainState:
        return create_state(job.init(key), job.tx, bool(job.ema))

    shapes = jax.eval_shape(create, jax.random.key(job.seed))
    return shapes, state_shardings(job.mesh, shapes)


def initial_state(job: Job, shardings: TrainState) -> TrainState:
    """The state before step 0, made where it lives."""
    variables = jax.jit(job.init)(jax.random.key(job.seed))
    if job.import_weights is not None:
        variables = job.import_weights(variables)

    def create(variables: Variables) -> TrainState:
        return create_state(variables, job.tx, bool(job.ema))

    return jax.jit(create, out_shardings=shardings)(variables)


def jit_train_step(job: Job, shardings: TrainState):
    """The train step compiled for the mesh, with the old state's memory reused."""
    step = make_train_step(
        job.apply_train,
        job.task,
        job.tx,
        job.schedule,
        seed=job.seed,
        accumulate=job.accumulate,
        ema=job.ema,
    )
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(job.mesh)),
        out_shardings=(shardings, replicated(job.mesh)),
        donate_argnums=0,
    )


def jit_eval_step(job: Job):
    """The evaluation step with its counts copied to every device."""
    return jax.jit(make_eval_step(job.apply_eval, job.task), out_shardings=replicated(job.mesh))


def _check_finite(values: dict[str, float], step: int) -> None:
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
    if bad:
        raise UserError(
            f"{bad[0]} is {values[bad[0]]} at step {step} (lr {values['lr']:.2e}); the last "
            "checkpoint is from before. Lower optim.lr, lengthen schedule.warmup_steps or set "
            "optim.clip_norm."
        )


def run(
    job: Job,
    workdir: str | Path,
    *,
    on_evaluated: Callable[[MetricLog, int, TrainState], None] = lambda *_: None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains from the newest checkpoint in `workdir`, or from the start, to the last step.

    Args:
      job: the run.
      workdir: where checkpoints and metrics go.
      on_evaluated: called with (log, step, state) after each evaluation, e.g. to draw overlays.
      say: takes each line for the terminal.

    Returns:
      Scores of the last evaluation.

    Raises:
      UserError: a checkpoint that does not fit, or a loss that is not finite.
    """
    shapes, shardings = abstract_state(job)
    checkpoints = Checkpoints(workdir, keep=job.keep)
    start = checkpoints.latest_step() or 0
    if start:
        state = checkpoints.restore(start, shapes, shardings)
        say(f"resumed from step {start} of {job.steps}")
    else:
        state = initial_state(job, shardings)
    train_step, eval_step = jit_train_step(job, shardings), jit_eval_step(job)
    log = MetricLog(workdir, resume_step=start)
    progress = Progress(job.steps, job.batch_size, start_step=start)
    batches = job.train_batches(start)
    scores: dict[str, float] = {}
    waited = 0.0
    try:
        for step in range(start + 1, job.steps + 1):
            asked = time.perf_counter()
            batch = to_device(next(batches), job.mesh)
            waited += time.perf_counter() - asked
            state, metrics = train_step(state, batch)

            last = step == job.steps
            if step % job.log_every == 0 or last:
                values = {k: float(v) for k, v in jax.device_get(metrics).items()}
                _check_finite(values, step)
                say(progress.line(step, values, waited))
                log.write(step, "train", values | progress.rates)
                waited = 0.0

            evaluated = step % job.eval_every == 0 or last
            if evaluated:
                progress.pause()
                scores = evaluate(eval_step, job.task, state, job.eval_batches(), job.mesh)
                log.write(step, "val", scores)
                say(f"step {step}: " + _headline(scores))
                on_evaluated(log, step, state)
                progress.resume()

            if evaluated or step % job.checkpoint_every == 0:
                meta = {**job.meta, "batches": step}
                checkpoints.save(state, meta, scores if evaluated else {})
        if not scores:  # the run was complete before it started
            scores = evaluate(eval_step, job.task, state, job.eval_batches(), job.mesh)
    finally:
        batches.close()
        log.close()
        checkpoints.close()
    return scores


def _headline(scores: dict[str, float]) -> str:
    return "  ".join(f"val {k} {v:.4f}" for k, v in scores.items() if "/" not in k)
