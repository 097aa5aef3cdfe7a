"""Figures of a run: curves over the steps and bars over the classes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import check
from attnseg.viz.canvas import BLUE, GREEN, GREY, ORANGE, dress, figure_of, save_figure

SPLITS = {"val": "Validation", "test": "Test", "train": "Training"}
SCORES = {"miou": "mIoU", "top1": "top-1 accuracy"}


def plot_curves(
    metrics: Sequence[Mapping[str, Any]], path: str | Path, score: str = "val/miou"
) -> None:
    """Draws training loss, learning rate and the score of evaluation over the steps into one PNG.

    Args:
      metrics: records of ``metrics.jsonl``, ``{"step", "split", name: value or None}``, with the
        names ``train/loss``, ``train/lr`` and `score`. What has no record gets no panel.
      path: the PNG; its folder is made.
      score: ``SPLIT/NAME``, the NAME one of `SCORES`.

    Raises:
      UserError: none of the three was recorded.
    """
    loss, rate, values = (series(metrics, n) for n in ("train/loss", "train/lr", score))
    draw_score = functools.partial(_draw_score, score)
    panels = [
        (draw, recorded)
        for draw, recorded in ((_draw_loss, loss), (_draw_rate, rate), (draw_score, values))
        if len(recorded[0])
    ]
    check(bool(panels), f"no train/loss, train/lr or {score} among the metrics; nothing to draw.")
    figure = figure_of(5.2 * len(panels), 3.6)
    last = max(steps[-1] for _, (steps, _) in panels)
    for index, (draw, (steps, values)) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        dress(axes)
        draw(axes, steps, values)
        axes.set_xlim(0, max(1, last * 1.02))
        axes.set_xlabel("step")
    save_figure(figure, path)


def plot_class_scores(
    scores: Mapping[str, float],
    path: str | Path,
    palette: Mapping[str, Sequence[int]] | None = None,
    score: str = "IoU",
) -> None:
    """Draws a score of each class as a bar, best on top, with the mean as a line.

    Args:
      scores: class name to score in 0..1; classes without a value (NaN) are left out.
      path: the PNG; its folder is made.
      palette: class name to RGB in 0..255, drawn as a patch beside the name.
      score: what the score is called.

    Raises:
      UserError: no class has a value.
    """
    bars = sorted((v, name) for name, v in scores.items() if not math.isnan(v))
    check(bool(bars), f"no class has a value of {score}; nothing to draw.")
    values, names = [v for v, _ in bars], [name for _, name in bars]
    mean = sum(values) / len(values)
    figure = figure_of(7.0, 1.1 + 0.28 * len(bars))
    axes = figure.add_subplot()
    dress(axes, grid="x")
    rows = np.arange(len(bars))
    axes.barh(rows, values, height=0.68, color=BLUE)
    axes.axvline(mean, color=ORANGE, linewidth=1.4)
    axes.set_title(f"{score} by class, mean {mean:.3f}", loc="left", fontsize=11)
    for row, value in zip(rows, values, strict=True):
        # The white edge keeps a number readable where the line of the mean crosses it.
        text = axes.text(value + 0.012, row, f"{value:.3f}", va="center", fontsize=9)
        _outline(text)
    axes.set_yticks(rows, names, fontsize=9, parse_math=False)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="y", length=0, pad=18 if palette else 4)
    if palette:
        _patches(axes, rows, [palette[name] for name in names])
    save_figure(figure, path)


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, f64 each; a value recorded as null becomes NaN."""
    points = [(r["step"], r[name]) for r in metrics if name in r]
    steps = np.asarray([s for s, _ in points], np.float64)
    return steps, np.asarray([np.nan if v is None else v for _, v in points], np.float64)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over about a fortieth of the curve, NaN left out."""
    window = 2 * (len(values) // 80) + 5
    kernel = np.hanning(window + 2)[1:-1]
    middle = slice(window // 2, window // 2 + len(values))
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[middle]
    weight = np.convolve(finite, kernel)[middle]
    return np.where(finite, total / np.where(finite, weight, 1.0), np.nan)


def _draw_loss(axes, steps: np.ndarray, values: np.ndarray) -> None:
    axes.set_title("Training loss", loc="left", fontsize=11)
    axes.plot(steps, values, color=BLUE, linewidth=0.8, alpha=0.5)
    axes.plot(steps, smooth(values), color=BLUE, linewidth=1.8)
    axes.set_ylim(bottom=0)


def _draw_rate(axes, steps: np.ndarray, values: np.ndarray) -> None:
    axes.set_title("Learning rate", loc="left", fontsize=11)
    axes.plot(steps, values, color=GREY, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.3g}")


def _draw_score(score: str, axes, steps: np.ndarray, values: np.ndarray) -> None:
    split, _, name = score.partition("/")
    label = f"{SPLITS.get(split, split)} {SCORES[name]}"
    axes.plot(steps, values, color=GREEN, linewidth=1.8, marker="o", markersize=3)
    axes.set_ylim(0, 1)
    if not np.isfinite(values).any():
        axes.set_title(label, loc="left", fontsize=11)
        return
    best = int(np.nanargmax(values))
    axes.plot(steps[best], values[best], "o", color=ORANGE, markersize=6)
    title = f"{label}, best {values[best]:.3f} at step {steps[best]:.0f}"
    axes.set_title(title, loc="left", fontsize=11)


def _outline(text) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _patches(axes, rows: np.ndarray, colours: list[Sequence[int]]) -> None:
    """Squares in class colours between the names and the axis."""
    faces = [tuple(float(c) / 255 for c in colour) for colour in colours]
    axes.scatter(
        np.full(len(rows), -0.022),
        rows,
        marker="s",
        s=70,
        c=faces,
        edgecolors="#666666",
        linewidths=0.6,
        transform=axes.get_yaxis_transform(),
        clip_on=False,
    )
