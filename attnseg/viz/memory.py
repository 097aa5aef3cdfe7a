"""Figure of a run's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnseg.viz.canvas import BLUE, dress, figure_of, save_figure
from attnseg.viz.curves import series


def plot_memory(metrics: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws ``train/rss_mb`` (MiB) over the steps as a PNG; without any, nothing is drawn.

    Args:
      metrics: records of ``metrics.jsonl``.
      path: the PNG; its folder is made.
    """
    steps, values = series(metrics, "train/rss_mb")
    if not len(steps):
        return
    figure = figure_of(5.2, 3.6)
    axes = figure.add_subplot()
    dress(axes)
    axes.set_title("Resident memory (MiB)", loc="left", fontsize=11)
    axes.plot(steps, values, color=BLUE, linewidth=1.4)
    axes.set_xlim(0, max(1, steps[-1] * 1.02))
    axes.set_ylim(0, max(values) * 1.1)
    axes.set_xlabel("step")
    save_figure(figure, path)
