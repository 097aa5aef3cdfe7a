"""Exact evaluation: every example once, sums on the device, division on the host.

Several processes each evaluate their own examples on their own devices, of whatever sizes, and
meet once, at the end, to add up what they counted.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from attnseg.core import memory
from attnseg.core.gather import gather
from attnseg.core.jitted import Jitted
from attnseg.core.mesh import batch_sharding, local_copy, local_mesh, replicated, to_global
from attnseg.core.types import (
    ID,
    IGNORE,
    IMAGE,
    LABEL,
    LOGITS,
    MASK,
    SIGNALS,
    SIZE,
    Batch,
    Counts,
    Example,
    Outputs,
)
from attnseg.infer import Programs, Views, blocks, label_map
from attnseg.infer.slide import IN_FLIGHT
from attnseg.objectives import boundary_counts, count_pairs
from attnseg.training.interrupt import CutShort, Interrupt
from attnseg.training.state import TrainState
from attnseg.training.step import Task, make_eval_step
from attnseg.training.tally import Scores, Tally

DEVICE_KEYS = (IMAGE, LABEL, MASK)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What evaluating needs.

    Attributes:
      init: ``key -> variables`` at random, for their shapes.
      apply: ``(params, batch_stats, images) -> outputs``.
      task: inputs, counts and their summary.
      batches: a fresh pass over this process's examples, padded; rows whose mask is 0 do not
        count.
      mesh: the devices of all processes.
      views: look at each image in these ways; None: whole and once, in `batches`.
      examples: of `views`: a fresh pass over this process's examples as they are.
      windows: of `views`: windows in one call of the network at most.
      boundary: share of the diagonal that boundary IoU looks at; 0 leaves it out.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    apply: Callable[..., Outputs]
    task: Task
    batches: Callable[[], Iterator[Batch]]
    mesh: Mesh
    views: Views | None = None
    examples: Callable[[], Iterator[Example]] | None = None
    windows: int = 1
    boundary: float = 0.0

    @functools.cached_property
    def programs(self) -> Programs:
        """The network for `views`; its variables are ``(params, batch_stats)``."""

        def logits(variables, images):
            return self.apply(*variables, self.task.inputs(images))[LOGITS]

        return Programs(logits, local_mesh(self.mesh), self.windows)


def to_device(batch: Batch, mesh: Mesh) -> Batch:
    """Sends what the device needs of a host batch, split over the mesh."""
    keys = [*DEVICE_KEYS, *([SIGNALS] if SIGNALS in batch else [])]
    return to_global({key: batch[key] for key in keys}, mesh)


def jit_eval_step(evaluation: Evaluation) -> Jitted:
    """``(params, batch_stats, batch) -> counts``, which are copied to every device.

    With `views` it is ``(block of logits or probabilities, labels) -> counts`` instead.
    """
    mesh, views, task = local_mesh(evaluation.mesh), evaluation.views, evaluation.task
    if views is not None:
        return Jitted(lambda values, labels: task.score(values, labels, views.count > 1))
    return Jitted(make_eval_step(evaluation.apply, task), out_shardings=replicated(mesh))


def evaluate(
    evaluation: Evaluation,
    eval_step: Jitted,
    state: TrainState,
    interrupt: Interrupt | None = None,
) -> Scores:
    """Scores of the `eval_params` of `state`, with `eval_step` from `jit_eval_step`.

    With a moving average of the parameters, BatchNorm still has the running statistics of the
    parameters themselves.

    Raises:
      CutShort: `interrupt`, or that of another process, had a signal.
    """
    interrupt = interrupt or Interrupt()  # one that never hears of a signal
    variables = (state.eval_params, state.batch_stats)
    if jax.process_count() > 1:
        variables = local_copy(variables, evaluation.mesh)
    tally, compiled = None, 0
    with contextlib.suppress(CutShort):
        if evaluation.views is None:
            tally = _in_batches(evaluation, eval_step, variables, interrupt)
            compiled = eval_step.compiled
        else:
            tally = _in_views(evaluation, eval_step, variables, interrupt)
            compiled = eval_step.compiled + evaluation.programs.compiled
    if "cut" in gather("cut" if tally is None else "whole"):
        raise CutShort
    return tally.gathered().scores(evaluation.task, compiled)


def _until_cut(interrupt: Interrupt, items: Iterator[Any]) -> Iterator[Any]:
    """The items, as long as there is no signal."""
    try:
        for item in items:
            if interrupt.signal:
                raise CutShort
            memory.ease()
            yield item
    finally:
        if hasattr(items, "close"):
            items.close()


def _in_batches(evaluation: Evaluation, eval_step: Jitted, variables, interrupt) -> Tally:
    tally, mesh = Tally(), local_mesh(evaluation.mesh)
    waiting: tuple[Batch, Counts] | None = None
    for batch in _until_cut(interrupt, evaluation.batches()):
        on_device = {key: batch[key] for key in DEVICE_KEYS}
        counts = eval_step(*variables, jax.device_put(on_device, batch_sharding(mesh)))
        # Fetched one batch late, so that the device works while the next batch is read (not on a
        # CPU within training, which runs a program in the thread that calls it).
        if waiting is not None:
            _tell(tally, evaluation, *waiting)
        waiting = batch, counts
    if waiting is not None:
        _tell(tally, evaluation, *waiting)
    return tally


def _tell(tally: Tally, evaluation: Evaluation, batch: Batch, counts: Counts) -> None:
    """Adds a batch to the tally."""
    by_image = "classes" in counts
    if not (by_image and evaluation.boundary):
        counts = {name: value for name, value in counts.items() if name != "classes"}
    counts = jax.device_get(counts)
    classes = counts.pop("classes", None)
    matrices = counts["confusion"] if by_image else ()
    tally.add(counts | ({"confusion": matrices.sum(0, dtype=np.int64)} if by_image else {}))
    for row, matrix in enumerate(matrices):
        if not batch[MASK][row]:
            continue
        tally.add_image(batch[ID][row], tuple(batch[SIZE][row].tolist()), matrix)
        if classes is not None:
            tally.add({"boundary": _boundary(evaluation, batch[LABEL][row], classes[row])})


def _boundary(evaluation: Evaluation, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    k = len(evaluation.task.classes)
    return boundary_counts(labels, classes, k, evaluation.boundary)


def _in_views(evaluation: Evaluation, eval_step: Jitted, variables, interrupt) -> Tally:
    tally = Tally()
    for example in _until_cut(interrupt, evaluation.examples()):
        matrix, classes = _count_views(tally, evaluation, eval_step, variables, example)
        tally.add_image(example[ID], classes.shape, matrix)
        if evaluation.boundary:
            tally.add({"boundary": _boundary(evaluation, example[LABEL], classes)})
    return tally


def _count_views(tally: Tally, evaluation, eval_step, variables, example: Example):
    """Adds an example's counts; its confusion i64 [k k] and its label map [h w]."""
    labels = example[LABEL]
    k = len(evaluation.task.classes)
    matrix, classes = np.zeros((k, k), np.int64), np.empty(labels.shape, np.uint8)
    waiting: collections.deque = collections.deque()

    def fetch() -> None:
        place, counts = waiting.popleft()
        counts = jax.device_get(counts)
        truth = labels[place]
        part = counts.pop("classes")[: truth.shape[0], : truth.shape[1]]
        classes[place] = part
        pairs = count_pairs(truth, part, k)
        matrix[:] += pairs
        tally.add(counts | {"confusion": pairs})

    views, image = evaluation.views, example[IMAGE]
    for block in blocks(evaluation.programs, variables, image, views, labels.shape):
        place = (
            slice(block.top, block.top + block.height),
            slice(block.left, block.left + block.width),
        )
        truth = np.full(block.values.shape[:2], IGNORE, np.int32)
        truth[: block.height, : block.width] = labels[place]
        waiting.append((place, eval_step(block.values, truth)))
        # The device is some blocks ahead of the host, and no more.
        if len(waiting) > IN_FLIGHT:
            fetch()
    while waiting:
        fetch()
    return matrix, classes


def jit_predict_step(evaluation: Evaluation) -> Callable[..., jax.Array]:
    """``(params, batch_stats, batch) -> label maps i32 [n h w]`` at the labels' size."""

    def predict(params, batch_stats, batch):
        outputs = evaluation.apply(params, batch_stats, evaluation.task.inputs(batch[IMAGE]))
        return evaluation.task.predict(outputs, batch[LABEL].shape[1:])

    return Jitted(predict, out_shardings=replicated(evaluation.mesh))


def predict_examples(
    predict_step: Callable[..., jax.Array], state: TrainState, batch: Batch, mesh: Mesh
) -> list[np.ndarray]:
    """Label maps i32 [h w] of the examples of one batch, without its padding."""
    rows = predict_step(state.eval_params, state.batch_stats, to_device(batch, mesh))
    return [r for r, real in zip(jax.device_get(rows), batch[MASK], strict=True) if real > 0]


def predict_views(evaluation: Evaluation, state: TrainState, example: Example) -> np.ndarray:
    """The label map [h w] of an example, looked at in the evaluation's `views`."""
    variables, size = (state.eval_params, state.batch_stats), example[LABEL].shape
    views = evaluation.views
    return label_map(evaluation.programs, variables, example[IMAGE], views, size)
