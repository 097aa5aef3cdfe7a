"""Exact evaluation: every example once, sums on the device, division on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from attnseg.core.mesh import replicated, to_global
from attnseg.core.types import IMAGE, LABEL, MASK, Batch, Counts, Outputs
from attnseg.training.state import TrainState
from attnseg.training.step import Task, make_eval_step

DEVICE_KEYS = (IMAGE, LABEL, MASK)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What evaluating needs.

    Attributes:
      init: ``key -> variables`` at random, for their shapes.
      apply: ``(params, batch_stats, images) -> outputs``.
      task: inputs, counts and their summary.
      batches: a fresh pass over the split, padded; rows whose mask is 0 do not count.
      mesh: the devices.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    apply: Callable[..., Outputs]
    task: Task
    batches: Callable[[], Iterator[Batch]]
    mesh: Mesh


def to_device(batch: Batch, mesh: Mesh) -> Batch:
    """Sends what the device needs of a host batch, split over the mesh."""
    return to_global({key: batch[key] for key in DEVICE_KEYS}, mesh)


def jit_eval_step(evaluation: Evaluation) -> Callable[..., Counts]:
    """The evaluation step, its counts copied to every device."""
    step = make_eval_step(evaluation.apply, evaluation.task)
    return jax.jit(step, out_shardings=replicated(evaluation.mesh))


def evaluate(
    evaluation: Evaluation, eval_step: Callable[..., Counts], state: TrainState
) -> dict[str, float]:
    """Scores of the `eval_params` of `state`, with `eval_step` from `jit_eval_step`.

    With a moving average of the parameters, BatchNorm still has the running statistics of the
    parameters themselves.
    """
    counts: list[Counts] = []
    waiting: Counts | None = None
    for batch in evaluation.batches():
        on_device = to_device(batch, evaluation.mesh)
        result = eval_step(state.eval_params, state.batch_stats, on_device)
        # Fetched one batch late, so that the device works while the next batch is read.
        if waiting is not None:
            counts.append(jax.device_get(waiting))
        waiting = result
    counts.append(jax.device_get(waiting))
    return evaluation.task.summarise(counts)


def jit_predict_step(evaluation: Evaluation) -> Callable[..., jax.Array]:
    """``(params, batch_stats, batch) -> label maps i32 [n h w]`` at the labels' size."""

    def predict(params, batch_stats, batch):
        outputs = evaluation.apply(params, batch_stats, evaluation.task.inputs(batch[IMAGE]))
        return evaluation.task.predict(outputs, batch[LABEL].shape[1:])

    return jax.jit(predict, out_shardings=replicated(evaluation.mesh))


def predict_examples(
    predict_step: Callable[..., jax.Array], state: TrainState, batch: Batch, mesh: Mesh
) -> list[np.ndarray]:
    """Label maps i32 [h w] of the examples of one batch, without its padding."""
    rows = predict_step(state.eval_params, state.batch_stats, to_device(batch, mesh))
    return [r for r, real in zip(jax.device_get(rows), batch[MASK], strict=True) if real > 0]
