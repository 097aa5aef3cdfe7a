"""Where a trained segmenter is wrong: its worst images and the classes it confuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnseg.core.errors import check
from attnseg.core.types import ID, IGNORE, IMAGE, LABEL, MASK
from attnseg.recipe import assemble
from attnseg.recipe.load import override, validate
from attnseg.recipe.trained import load_trained
from attnseg.training.checkpoint import write_json
from attnseg.training.evaluate import jit_predict_step, predict_examples
from attnseg.training.state import weights_only
from attnseg.viz import comparison, save_png
from attnseg.viz.mistakes import Confused, pairs_table, plot_pairs

PAIRS = 12  # confused pairs that are told


class ImageScore(NamedTuple):
    """How well one image went: mean IoU of the classes in its truth, and pixel accuracy."""

    id: str
    miou: float
    accuracy: float


def counts(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix i64 [k k] of one image, row = label; ignored pixels do not count."""
    valid = label != IGNORE
    pairs = label[valid].astype(np.int64) * classes + prediction[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def image_score(name: str, matrix: np.ndarray) -> ImageScore | None:
    """The scores of one image; None for one without labelled pixels."""
    total, hit = matrix.sum(), np.diag(matrix)
    present = matrix.sum(1) > 0
    if not total:
        return None
    union = matrix.sum(1) + matrix.sum(0) - hit
    miou = float(np.mean(hit[present] / union[present]))
    return ImageScore(name, miou, float(hit.sum() / total))


def confused_pairs(matrix: np.ndarray, classes: tuple[str, ...], count: int) -> list[Confused]:
    """Ordered pairs (label, prediction) by the share of the label's pixels that went wrong so."""
    matrix = np.asarray(matrix, np.int64)
    rows = matrix.sum(1)
    found = [
        Confused(classes[i], classes[j], int(matrix[i, j]), float(matrix[i, j] / rows[i]))
        for i, j in zip(*np.nonzero(matrix), strict=True)
        if i != j
    ]
    # Ties, as in a tiny split, keep the order of the classes.
    return sorted(found, key=lambda pair: -pair.share)[:count]


def _worst_first(score: ImageScore) -> tuple[float, str]:
    return score.miou, score.id


def report(
    workdir: str,
    output: str | None = None,
    *,
    split: str | None = None,
    count: int = 6,
    checkpoint: str = "best",
    changes: dict[str, Any] | None = None,
    say=print,
) -> dict[str, Any]:
    """Predicts a split and writes what went wrong.

    Args:
      workdir: folder of a run of a segmentation model.
      output: folder for ``worst_0.png`` ..., ``confused.png`` and ``errors.json``; default
        ``WORKDIR/errors``.
      split: default the configuration's ``eval.split``.
      count: worst images that are drawn.
      checkpoint: "best", "latest" or a step.
      changes: dotted configuration keys that differ, e.g. ``data.root``.

    Returns:
      ``{"split", "images": [[id, miou, accuracy] ...] worst first, "confused": [...]}``.

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
    source = assemble.open_split(config, split)
    evaluation = assemble.build_evaluation(config, source)
    state = weights_only(variables)
    predict = jit_predict_step(evaluation)
    say(f"predicting {len(source)} images of {split}")
    total = np.zeros((len(info.classes),) * 2, np.int64)
    scores: list[ImageScore] = []
    worst: list[tuple[ImageScore, int, np.ndarray]] = []  # with index and prediction
    index = 0
    for batch in evaluation.batches():
        real = batch[MASK] > 0
        rows = predict_examples(predict, state, batch, evaluation.mesh)
        for name, label, row in zip(batch[ID], batch[LABEL][real], rows, strict=False):
            matrix = counts(label, row, len(info.classes))
            total += matrix
            if score := image_score(name, matrix):
                scores.append(score)
                worst.append((score, index, row))
            index += 1
        # Only the predictions that will be drawn are kept.
        worst = sorted(worst, key=lambda item: _worst_first(item[0]))[:count]
    scores.sort(key=_worst_first)
    folder = Path(output) if output else Path(workdir) / "errors"
    for place, (_, index, prediction) in enumerate(worst):
        example = assemble.readable(config, source)[index]
        sheet = comparison(example[IMAGE], example[LABEL], prediction, info.palette, info.classes)
        save_png(folder / f"worst_{place}.png", sheet)
    pairs = confused_pairs(total, info.classes, PAIRS)
    if pairs:
        plot_pairs(pairs, folder / "confused.png")
    found = {
        "split": split,
        "images": [list(score) for score in scores],
        "confused": [list(pair) for pair in pairs],
    }
    write_json(folder / "errors.json", found)
    for score in scores[:count]:
        say(f"{score.id}: mIoU {100 * score.miou:.1f}, accuracy {100 * score.accuracy:.1f}")
    say(pairs_table(pairs))
    say(f"written to {folder}")
    return found
