"""Exact evaluation: every example once, sums on the device, division on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from attnseg.core.mesh import to_global
from attnseg.core.types import IMAGE, LABEL, MASK, Batch, Counts
from attnseg.train.state import TrainState
from attnseg.train.step import Task

DEVICE_KEYS = (IMAGE, LABEL, MASK)


def to_device(batch: Batch, mesh: Mesh) -> Batch:
    """Sends what the device needs of a host batch, split over the mesh."""
    return to_global({key: batch[key] for key in DEVICE_KEYS}, mesh)


def evaluate(
    eval_step: Callable[..., Counts],
    task: Task,
    state: TrainState,
    batches: Iterator[Batch],
    mesh: Mesh,
) -> dict[str, float]:
    """Scores of `state` on all `batches`.

    Args:
      eval_step: jitted `attnseg.train.step.make_eval_step`.
      task: summarises the counts.
      state: its `eval_params` are evaluated.
      batches: padded host batches; rows whose mask is 0 do not count.
      mesh: the devices.
    """
    counts: list[Counts] = []
    waiting: Counts | None = None
    for batch in batches:
        result = eval_step(state.eval_params, state.batch_stats, to_device(batch, mesh))
        # Fetched one batch late, so that the device works while the next batch is read.
        if waiting is not None:
            counts.append(jax.device_get(waiting))
        waiting = result
    counts.append(jax.device_get(waiting))
    return task.summarise(counts)


def predict_examples(
    predict_step: Callable[..., jax.Array],
    state: TrainState,
    batch: Batch,
    mesh: Mesh,
) -> list[np.ndarray]:
    """Label maps i32 [h w] of the examples of one batch, without its padding."""
    predictions = predict_step(state.eval_params, state.batch_stats, to_device(batch, mesh))
    rows = np.asarray(jax.device_get(predictions))
    return [row for row, real in zip(rows, batch[MASK], strict=True) if real > 0]
