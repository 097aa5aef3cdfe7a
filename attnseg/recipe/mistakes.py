"""Where a trained segmenter is wrong: its worst images and the classes it confuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import check
from attnseg.core.mesh import replicated
from attnseg.core.types import ID, IMAGE, LABEL
from attnseg.recipe import assemble
from attnseg.recipe.load import override, validate
from attnseg.recipe.subset import Subset
from attnseg.recipe.trained import load_trained
from attnseg.training.checkpoint import write_json
from attnseg.training.evaluate import (
    Evaluation,
    evaluate,
    jit_eval_step,
    jit_predict_step,
    predict_examples,
    predict_views,
)
from attnseg.training.state import TrainState, weights_only
from attnseg.viz import comparison, save_png
from attnseg.viz.mistakes import Confused, pairs_table, plot_pairs

PAIRS = 12  # confused pairs that are told


def confused_pairs(matrix: np.ndarray, classes: tuple[str, ...], count: int) -> list[Confused]:
    """Ordered pairs (label, prediction) by the share of the label's pixels that went wrong so.

    Args:
      matrix: i64 [k k], row = label.
      classes: k names.
      count: pairs at most.
    """
    rows = matrix.sum(1)
    found = [
        Confused(classes[i], classes[j], int(matrix[i, j]), float(matrix[i, j] / rows[i]))
        for i, j in zip(*np.nonzero(matrix), strict=True)
        if i != j
    ]
    # Ties, as in a tiny split, keep the order of the classes.
    return sorted(found, key=lambda pair: -pair.share)[:count]


def report(
    workdir: str,
    output: str | None = None,
    *,
    split: str | None = None,
    count: int = 6,
    checkpoint: str = "best",
    changes: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluates a split and writes what went wrong.

    Args:
      workdir: folder of a run of a segmentation model.
      output: folder for ``worst_0.png`` ..., ``confused.png`` and ``errors.json``; default
        ``WORKDIR/errors``.
      split: default the configuration's ``eval.split``.
      count: worst images that are drawn.
      checkpoint: "best", "latest" or a step.
      changes: dotted configuration keys that differ, e.g. ``data.root``.

    Returns:
      ``{"split", "images": [[id, mIoU, accuracy] ...] worst first, "confused": [...]}``.

    Raises:
      UserError: no such run or split, or a classifier's.
    """
    check(count >= 0, f"--count={count} is negative; use 0 or more.")
    _, variables, info, config = load_trained(workdir, checkpoint)
    check(
        info.task == "segmentation",
        f"{workdir} is a run of a classifier, whose images have no map of mistakes.",
    )
    override(config, changes or {})
    validate(config)
    split = split or config.eval.split
    source = assemble.readable(config, assemble.open_split(config, split))
    evaluation = assemble.build_evaluation(config, source)
    state = jax.device_put(weights_only(variables), replicated(evaluation.mesh))
    say(f"evaluating {len(source)} images of {split}")
    scores = evaluate(evaluation, jit_eval_step(evaluation), state)

    folder = Path(output) if output else Path(workdir) / "errors"
    worst = [image for image in scores.images if image.pixels][:count]
    examples = _examples(source, [image.name for image in worst])
    predictions = _predictions(config, evaluation, state, examples)
    for place, image in enumerate(worst):
        index = next(i for i in range(len(examples)) if examples[i][ID] == image.name)
        truth = examples[index]
        found = predictions[image.name]
        sheet = comparison(truth[IMAGE], truth[LABEL], found, info.palette, info.classes)
        save_png(folder / f"worst_{place}.png", sheet)
        say(f"{image.name}: mIoU {100 * image.miou:.1f}, accuracy {100 * image.aacc:.1f}")
    pairs = confused_pairs(scores.confusion, info.classes, PAIRS)
    if pairs:
        plot_pairs(pairs, folder / "confused.png")
    told = {
        "split": split,
        "images": [[image.name, image.miou, image.aacc] for image in scores.images if image.pixels],
        "confused": [list(pair) for pair in pairs],
    }
    write_json(folder / "errors.json", told)
    say(pairs_table(pairs))
    say(f"written to {folder}")
    return told


def _examples(source: data.Source, names: list[str]) -> Subset:
    """The examples with these ids; ids are known only when an example is read."""
    left, indices = set(names), []
    for index in range(len(source)):
        if not left:
            break
        name = source[index][ID]
        if name in left:
            left.remove(name)
            indices.append(index)
    return Subset(source, tuple(indices))


def _predictions(
    config: ConfigDict, evaluation: Evaluation, state: TrainState, examples: Subset
) -> dict[str, np.ndarray]:
    """Label maps by id, made in the way that is evaluated."""
    if evaluation.views is not None:
        picked = (examples[index] for index in range(len(examples)))
        return {e[ID]: predict_views(evaluation, state, e) for e in picked}
    found: dict[str, np.ndarray] = {}
    if len(examples):
        predict = jit_predict_step(evaluation)
        for batch in assemble.eval_batches(config, examples, evaluation.mesh):
            rows = predict_examples(predict, state, batch, evaluation.mesh)
            found |= dict(zip(batch[ID], rows, strict=False))
    return found
