"""The training loop. Everything arrives as objects and functions; no configuration, no names.

Order within one iteration, which resuming relies on: take batch number `step`, update, log,
evaluate, save. A checkpoint of step s therefore follows s updates and s batches.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax

from attnseg.core import memory, processes
from attnseg.core.compiler import compiler_options
from attnseg.core.errors import check
from attnseg.core.mesh import batch_sharding, replicated, state_shardings
from attnseg.core.types import Batch, Outputs
from attnseg.training.checkpoint import Checkpoints, check_labels
from attnseg.training.evaluate import Evaluation, evaluate, jit_eval_step, to_device
from attnseg.training.guard import RAISE, SKIP, Guard
from attnseg.training.interrupt import CutShort, Interrupt, Stopped
from attnseg.training.log import MetricLog, Progress
from attnseg.training.state import TrainState, create_state
from attnseg.training.step import FINITE, make_gradients, make_train_step
from attnseg.training.vitals import Vitals

Variables = dict[str, Any]
Scores = dict[str, float]
LOGGED = ("loss", "grad_norm", "lr")  # metrics of the train step that are written down
OWED = "evaluation_owed"  # in a checkpoint: a signal came before the step was evaluated


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
      nonfinite, max_nonfinite: "raise" or "skip" updates that are not finite, and how many.
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
    nonfinite: str = RAISE
    max_nonfinite: int = 10


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
        create = jax.jit(_create(job), out_shardings=shardings)
        return processes.compiled_together(create)(key)
    variables = jax.device_get(job.import_weights(jax.jit(job.evaluation.init)(key)))

    def create(variables: Variables) -> TrainState:
        return create_state(variables, job.tx, bool(job.ema))

    return processes.compiled_together(jax.jit(create, out_shardings=shardings))(variables)


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
        compiler_options=compiler_options("train"),
    )


def make_guard(job: Job, workdir: str | Path, say: Callable[[str], None]) -> Guard:
    """What reports updates that are not finite."""
    gradients = make_gradients(
        job.apply_train, job.evaluation.task, seed=job.seed, accumulate=job.accumulate
    )
    return Guard(workdir, gradients, mode=job.nonfinite, most=job.max_nonfinite, say=say)


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
      UserError: a checkpoint that does not fit, or a loss or gradient that is not finite.
      Stopped: SIGTERM or SIGINT; the state is saved.
    """
    memory.limit_arenas()
    with Interrupt(say) as interrupt:
        this = _Run(job, workdir, interrupt, on_evaluated, say)
        try:
            this.begin()
            on_started(this.step)
            while this.step < job.steps:
                this.advance()
            if not this.scores:  # the run was complete before it started
                this.scores = evaluate(job.evaluation, this.eval_step, this.state, interrupt)
            return this.step, this.scores
        except CutShort:
            raise Stopped(this.step, f"stopped at step {this.step} of {job.steps}") from None
        finally:
            this.close()


class _Run:
    """A run under way: the state after `step` steps, and what has to be done at each."""

    def __init__(
        self,
        job: Job,
        workdir: str | Path,
        interrupt: Interrupt,
        on_evaluated: Callable[[MetricLog, int, TrainState], None],
        say: Callable[[str], None],
    ):
        self.job, self.mesh, self.interrupt = job, job.evaluation.mesh, interrupt
        self.workdir, self.on_evaluated, self.say = workdir, on_evaluated, say
        self.checkpoints = Checkpoints(workdir, keep=job.keep, metric=job.evaluation.task.best)
        self.log: MetricLog | None = None
        self.batches: Iterator[Batch] | None = None
        self.scores: Scores = {}  # of the evaluation after `step`, if there was one
        self.metrics: dict[str, jax.Array] | None = None  # of `step`
        self.batch: Batch | None = None  # that `step` was given
        self.checked = False  # whether `metrics` have been looked at
        self.waited = 0.0  # seconds without data since the last line

    def begin(self) -> None:
        """Takes up the newest checkpoint, or starts."""
        job = self.job
        shardings = abstract_state(job)[1]
        self.state = _start(job, self.checkpoints, shardings, self.say)
        self.step = self.saved = start = int(self.state.step)
        self.vitals = Vitals()
        meta = self.checkpoints.meta(start) if start else {}
        owed = bool(meta.get(OWED))
        if start:
            self.say(f"resumed from step {start} of {job.steps}")
        self.train_step = processes.compiled_together(jit_train_step(job, shardings))
        self.eval_step = jit_eval_step(job.evaluation)
        self.guard = make_guard(job, self.workdir, self.say)
        self.guard.count = meta.get("nonfinite", 0)
        self.log = MetricLog(
            self.workdir,
            resume_step=start,
            # Of an evaluation that is made again, a kill may have left a record.
            without=job.split if owed else None,
            active=processes.index() == 0,
        )
        self.progress = Progress(job.steps, job.batch_size, start_step=start)
        self.batches = job.train_batches(start)
        self.tally = getattr(self.batches, "tally", None)
        if self.tally is not None:
            self.tally.failed.update(meta.get("skipped", ()))
        processes.meet()
        if owed:
            self.evaluate()
            self.save(again=True)  # now with its scores

    def advance(self) -> None:
        """Makes one step, and what is due after it."""
        job = self.job
        asked = time.perf_counter()
        batch = to_device(self.interrupt.mark(next(self.batches)), self.mesh)
        # Loading that the previous step outlasts keeps nobody waiting; on a CPU it has ended.
        if self.metrics is None or self.metrics["loss"].is_ready():
            self.waited += time.perf_counter() - asked
        self.settle()  # no more than two batches lie on the device
        if self.interrupt.seen(self.metrics):
            self.save_and_stop()
        self.state, self.metrics = self.train_step(self.state, batch)
        self.step, self.batch, self.checked, self.scores = self.step + 1, batch, False, {}

        last = self.step == job.steps
        evaluated = self.step % job.eval_every == 0 or last
        if self.step % job.log_every == 0 or last:
            self.write_line()
        self.progress.pause()
        if evaluated:
            try:
                self.evaluate()
            except CutShort:
                self.save_and_stop(owed=True)
        if self.step % job.checkpoint_every == 0 or evaluated:
            self.save()
        self.progress.resume()

    def settle(self) -> None:
        """Waits for the step under way and looks whether it was finite."""
        jax.block_until_ready(self.metrics)
        memory.ease()
        if self.metrics is None or self.checked:
            return
        self.checked = True
        if not jax.device_get(self.metrics[FINITE]):
            metrics = {k: self.metrics[k] for k in LOGGED}
            self.guard.met(self.step, metrics, self.state, self.batch)

    def write_line(self) -> None:
        """Says and logs the step."""
        self.settle()
        self.checkpoints.check()  # a disk that is full stops the run soon, not at the next save
        values = {k: float(v) for k, v in jax.device_get(self.metrics).items() if k in LOGGED}
        if self.tally is not None:
            self.gather_skipped()
            values["skipped"] = len(self.tally.failed)
        if self.job.nonfinite == SKIP:
            values["nonfinite"] = self.guard.count
        self.say(self.progress.line(self.step, values, self.waited))
        self.log.write(self.step, "train", values | self.progress.rates | self.vitals.read())
        self.waited = 0.0

    def gather_skipped(self) -> None:
        """Makes each process count the records that others could not read, too."""
        if processes.count() > 1:
            own = json.dumps(sorted(self.tally.failed))
            self.tally.include(i for text in processes.gather(own) for i in json.loads(text))

    def evaluate(self) -> None:
        """Scores the state, says and logs them."""
        self.settle()
        self.scores = evaluate(self.job.evaluation, self.eval_step, self.state, self.interrupt)
        self.log.write(self.step, self.job.split, self.scores)
        self.say(f"step {self.step}: {_headline(self.job.split, self.scores)}")
        self.on_evaluated(self.log, self.step, self.state)
        processes.meet()

    def save(self, owed: bool = False, again: bool = False) -> None:
        """Starts saving the state, with `scores` if it was evaluated."""
        self.settle()
        job = self.job
        position: dict[str, Any] = {
            "batches": self.step,
            "seed": job.seed,
            "batch_size": job.batch_size,
            "nonfinite": self.guard.count,
            OWED: owed,
        }
        if self.tally is not None:
            self.gather_skipped()
            position["skipped"] = sorted(self.tally.failed)
        self.checkpoints.save(self.state, {**job.meta, **position}, self.scores, again)
        self.saved = self.step
        processes.meet()
        memory.release()

    def save_and_stop(self, owed: bool = False) -> None:
        """Saves what is not yet saved and ends the run; `owed`: its evaluation was left."""
        if self.saved != self.step:
            self.save(owed)
        told = f"stopped at step {self.step} of {self.job.steps}, which is saved"
        self.say(f"{told}; the same command goes on from there")
        raise Stopped(self.step, told)

    def close(self) -> None:
        """Waits for the last save; ends threads and worker processes."""
        for resource in (self.batches, self.log, self.checkpoints):
            if resource is not None:
                resource.close()


def _headline(split: str, scores: Scores) -> str:
    return "  ".join(f"{split} {k} {v:.4f}" for k, v in scores.items() if "/" not in k)
