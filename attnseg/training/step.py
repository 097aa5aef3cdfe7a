"""The jitted functions of training: one update, one batch of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from attnseg.core.types import IMAGE, SIGNALS, Batch, Counts, Outputs, Params
from attnseg.training.state import TrainState


class Task(Protocol):
    """What `attnseg.tasks` provides."""

    best: str  # the score that decides which checkpoint is best; higher is better
    counting: str  # in words, how the scores are counted
    classes: tuple[str, ...]

    def augment(self, batch: Batch, key: Array) -> Batch: ...
    def inputs(self, images: Array) -> Array: ...
    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]: ...
    def counts(self, outputs: Outputs, batch: Batch) -> Counts: ...
    def score(self, values: Array, labels: Array, shares: bool) -> Counts: ...
    def predict(self, outputs: Outputs, size: tuple[int, int]) -> Array: ...
    def summarise(self, counts: list[Counts]) -> dict[str, float]: ...


FINITE = "finite"  # metric: whether loss and gradient of the step are, and it was made

ApplyTrain = Callable[[Params, Params, Array, Array], tuple[Outputs, Params]]
ApplyEval = Callable[[Params, Params, Array], Outputs]


def _split(batch: Batch, parts: int) -> Batch:
    """[n ...] -> [parts n/parts ...], every part taking rows from all devices."""

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree_util.tree_map(split, batch)


def make_gradients(
    apply: ApplyTrain, task: Task, *, seed: int, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[Array, Params, Params]]:
    """Returns ``gradients(state, batch) -> (loss, batch_stats, gradients of the loss)``.

    The gradient is that of the loss sum over the whole batch divided by its weight once, so that
    neither devices nor accumulation change what a pixel counts.

    Args:
      apply: ``(params, batch_stats, images, key) -> (outputs, new batch_stats)``.
      task: augmentation, inputs and loss.
      seed: the key of a step is ``fold_in(key(seed), step)``.
      accumulate: parts the batch is worked through in, one after the other. BatchNorm then sees
        one part at a time.
    """

    def loss_sum(params: Params, batch_stats: Params, batch: Batch, key: Array):
        augment_key, drop_key = jax.random.split(key)
        batch = task.augment(batch, augment_key)
        images = task.inputs(batch[IMAGE])
        outputs, batch_stats = apply(params, batch_stats, images, drop_key)
        total, weight = task.loss(outputs, batch)
        return total, (weight, batch_stats)

    def scale(weight: Array) -> Array:
        return 1.0 / jnp.maximum(weight, 1.0)  # a batch of ignored pixels changes nothing

    def mean(params: Params, batch_stats: Params, batch: Batch, key: Array):
        total, (weight, batch_stats) = loss_sum(params, batch_stats, batch, key)
        return total * jax.lax.stop_gradient(scale(weight)), batch_stats

    def at_once(state: TrainState, batch: Batch, key: Array) -> tuple[Array, Params, Params]:
        # Scaled before the backward pass, which saves a pass over all gradients.
        grad = jax.value_and_grad(mean, has_aux=True)
        (loss, batch_stats), grads = grad(state.params, state.batch_stats, batch, key)
        return loss, batch_stats, grads

    def in_parts(state: TrainState, batch: Batch, key: Array) -> tuple[Array, Params, Params]:
        grad = jax.value_and_grad(loss_sum, has_aux=True)

        def part(carry, inputs):
            index, rows = inputs
            total, weight, stats, grads = carry
            part_key = jax.random.fold_in(key, index)
            (t, (w, stats)), g = grad(state.params, stats, rows, part_key)
            return (total + t, weight + w, stats, jax.tree_util.tree_map(jnp.add, grads, g)), None

        zero = jnp.zeros((), jnp.float32)
        zeros = jax.tree_util.tree_map(jnp.zeros_like, state.params)
        start = (zero, zero, state.batch_stats, zeros)
        inputs = (jnp.arange(accumulate), _split(batch, accumulate))
        total, weight, batch_stats, grads = jax.lax.scan(part, start, inputs)[0]
        factor = scale(weight)
        return total * factor, batch_stats, jax.tree_util.tree_map(lambda g: g * factor, grads)

    def gradients(state: TrainState, batch: Batch) -> tuple[Array, Params, Params]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        return (at_once if accumulate == 1 else in_parts)(state, batch, key)

    return gradients


def _counted(new: Any, old: Any) -> Any:
    """`old` with the counters of `new`, so that a step that is left out keeps its learning rate."""

    def leaf(n: Array, o: Array) -> Array:
        return o if jnp.issubdtype(o.dtype, jnp.inexact) else n

    return jax.tree_util.tree_map(leaf, new, old)


def make_train_step(
    apply: ApplyTrain,
    task: Task,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    accumulate: int = 1,
    ema: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns ``step(state, batch) -> (state, metrics)``, to be jitted with the state donated.

    Where loss or gradient are not finite, nothing is updated but the number of the step.

    Args:
      apply, task, seed, accumulate: see `make_gradients`.
      tx: optimizer.
      schedule: learning rate by step, for the log.
      ema: decay of the moving average of the parameters; 0 keeps none.
    """
    gradients = make_gradients(apply, task, seed=seed, accumulate=accumulate)

    def update(state: TrainState, batch_stats: Params, grads: Params) -> TrainState:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema:
            # Short memory at first, or the random start would stay in the average for long.
            decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            ema_params = jax.tree_util.tree_map(
                lambda e, p: e * decay + p * (1.0 - decay), ema_params, params
            )
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema_params)

    def skip(state: TrainState, batch_stats: Params, grads: Params) -> TrainState:
        return _counted(update(state, batch_stats, grads), state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        batch = dict(batch)
        signals = batch.pop(SIGNALS, None)
        loss, batch_stats, grads = gradients(state, batch)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        metrics = {"loss": loss, "grad_norm": norm, "lr": schedule(state.step), FINITE: finite}
        if signals is not None:
            metrics[SIGNALS] = jnp.max(signals)
        # A choice between new and old values after the update would keep both of them in memory.
        return jax.lax.cond(finite, update, skip, state, batch_stats, grads), metrics

    return step


def make_eval_step(apply: ApplyEval, task: Task) -> Callable[[Params, Params, Batch], Counts]:
    """Returns ``step(params, batch_stats, batch) -> counts``, to be jitted."""

    def step(params: Params, batch_stats: Params, batch: Batch) -> Any:
        return task.counts(apply(params, batch_stats, task.inputs(batch[IMAGE])), batch)

    return step
