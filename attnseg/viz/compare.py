"""Curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import check
from attnseg.viz.canvas import dress, figure_of, save_figure
from attnseg.viz.curves import SCORES, SPLITS, series, smooth

# Told apart by brightness as well: the order of the first two is that of SegNeXt's figure.
COLOURS = ("#2f7d4f", "#2a6f97", "#c8691c", "#8a4f9e", "#b03a48", "#6b6b6b", "#b59a1f", "#3aa6a6")
STYLES = ("-", "--", ":", "-.")  # for more runs than colours


def plot_runs(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, score: str
) -> None:
    """Draws training loss and a score of several runs over the steps, a colour for each run.

    Args:
      runs: name to the records of its ``metrics.jsonl``.
      path: the PNG; its folder is made.
      score: ``SPLIT/NAME`` of the right panel.

    Raises:
      UserError: no run has either.
    """
    panels = [name for name in ("train/loss", score) if any(_has(r, name) for r in runs.values())]
    check(bool(panels), f"no run has recorded train/loss or {score}; nothing to draw.")
    figure = figure_of(5.4 * len(panels), 3.9)
    for place, name in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        dress(axes)
        last = 1.0
        for index, (label, records) in enumerate(runs.items()):
            steps, values = series(records, name)
            if not len(steps):
                continue
            colour = COLOURS[index % len(COLOURS)]
            style = STYLES[index // len(COLOURS) % len(STYLES)]
            last = max(last, steps[-1])
            if name == "train/loss":
                axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
                axes.plot(steps, smooth(values), style, color=colour, linewidth=1.8, label=label)
            else:
                marks = dict(marker="o", markersize=3)
                axes.plot(steps, values, style, color=colour, linewidth=1.8, label=label, **marks)
        axes.set_title(_title(name), loc="left", fontsize=11)
        axes.set_xlim(0, last * 1.02)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        # Text of names is no markup.
        for text in axes.legend(fontsize=9, frameon=False).get_texts():
            text.set_parse_math(False)
    save_figure(figure, path)


def _has(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(np.isfinite(series(records, name)[1]))


def _title(name: str) -> str:
    if name == "train/loss":
        return "Training loss"
    split, _, score = name.partition("/")
    return f"{SPLITS.get(split, split)} {SCORES.get(score, score)}"
