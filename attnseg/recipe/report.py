"""What an evaluation leaves behind: numbers, scores of each image, the confusion matrix."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from attnseg.training.checkpoint import write_json
from attnseg.training.evaluate import Evaluation
from attnseg.training.tally import ImageScores, Scores
from attnseg.viz import plot_confusion

RESULTS, IMAGES, CONFUSION, FIGURES = "results.json", "scores.csv", "confusion.csv", "figures"


def write_report(
    folder: Path, evaluation: Evaluation, scores: Scores, *, split: str, step: int, **more: Any
) -> None:
    """Writes an evaluation's numbers to `folder`; other processes than the first write nothing.

    ``results.json``: the scores under SPLIT/NAME, how classes without pixels are counted and how
    images were looked at; ``scores.csv``: a line for each image, the worst first;
    ``confusion.csv`` and ``figures/confusion.png``: pixels (images) by label and prediction.

    Args:
      folder: is made.
      evaluation: what was evaluated.
      scores: its outcome.
      split, step: of what.
      more: other entries of ``results.json``.
    """
    if jax.process_index() != 0:
        return
    classes = evaluation.task.classes
    record = {
        "step": step,
        "split": split,
        "metrics": {f"{split}/{name}": value for name, value in scores.items()},
        "counting": evaluation.task.counting,
        "evaluation": describe(evaluation, scores),
    }
    write_json(folder / RESULTS, record | more)
    if scores.images:
        _write_images(folder / IMAGES, scores.images, classes)
    if scores.confusion is not None:
        _write_matrix(folder / CONFUSION, scores.confusion, classes)
        plot_confusion(scores.confusion, classes, folder / FIGURES / "confusion.png")


def describe(evaluation: Evaluation, scores: Scores) -> dict[str, Any]:
    """How images were looked at, for ``results.json``."""
    views = evaluation.views
    found: dict[str, Any] = {"mode": "whole", "programs": scores.programs}
    if views is not None:
        slide = {"window": views.window, "stride": views.strides} if views.mode == "slide" else {}
        found |= {"mode": views.mode, **slide, "bucket": views.bucket}
        found |= {"scales": views.scales, "flip": views.flip}
    if evaluation.boundary:
        found["boundary"] = evaluation.boundary
    return found


def _write_images(path: Path, images: tuple[ImageScores, ...], classes: tuple[str, ...]) -> None:
    header = ["id", "height", "width", "pixels", "miou", "aacc", *(f"iou/{c}" for c in classes)]
    rows = ([i.name, *i.size, i.pixels, *map(_cell, (i.miou, i.aacc, *i.ious))] for i in images)
    _write_csv(path, header, rows)


def _write_matrix(path: Path, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
    rows = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    _write_csv(path, ["label \\ prediction", *classes], rows)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _write_csv(path: Path, header: list[str], rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
