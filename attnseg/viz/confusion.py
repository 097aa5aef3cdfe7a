"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attnseg.core.errors import check
from attnseg.viz.canvas import figure_of, save_figure

WITH_NUMBERS = 20  # classes up to which cells carry their share
EMPTY = "#d9d9d9"


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draws which class the pixels of each class were taken for, as PNG.

    A row is a label, in shares of its pixels; the rows of classes that are never labelled are
    grey. Colours follow the square root of the share, so that small confusions are seen.

    Args:
      matrix: i64 [k k], row = label, column = prediction.
      class_names: k names.
      path: the PNG; its folder is made.

    Raises:
      UserError: the names do not fit the matrix.
    """
    k = len(class_names)
    check(
        matrix.shape == (k, k),
        f"{k} class names for a confusion matrix of shape {matrix.shape}.",
    )
    labelled = matrix.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(labelled > 0, matrix / labelled, np.nan)
    cell = 0.42 if k <= WITH_NUMBERS else max(0.14, 0.42 * WITH_NUMBERS / k)
    size = 7.0 if k <= WITH_NUMBERS else min(9.0, 65 * cell)  # of the names, in points
    large = k > 2 * WITH_NUMBERS
    margin = 0.55 * size / 72 * max(map(len, class_names)) * (1 + large) + 0.6
    figure = figure_of(cell * k + margin + 1.0, cell * k + margin + 0.4)
    axes = figure.add_subplot()
    _draw(figure, axes, shares)
    names = list(class_names)
    axes.set_xticks(range(k), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(k), names, fontsize=size, parse_math=False)
    # On a large picture names are far from the cells on the other side.
    axes.tick_params(length=0, labeltop=large, labelright=large)
    axes.set_xlabel("prediction", fontsize=26 if large else 10)
    axes.set_ylabel("label", fontsize=26 if large else 10)
    title = "Share of each label's pixels, by prediction"
    axes.set_title(title, loc="left", fontsize=26 if large else 11)
    if k <= WITH_NUMBERS:
        _write_shares(axes, shares)
    save_figure(figure, path)


def _draw(figure, axes, shares: np.ndarray) -> None:
    from matplotlib.colors import PowerNorm

    axes.set_facecolor(EMPTY)
    masked = np.ma.masked_invalid(shares)
    image = axes.imshow(masked, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), aspect="equal")
    k = len(shares)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8 if k <= 40 else 0.3)
    axes.tick_params(which="minor", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    # As tall as a few rows, however many there are: the scale is no part of the picture's size.
    bar = figure.colorbar(image, ax=axes, shrink=0.6 if k <= WITH_NUMBERS else 0.4, aspect=25)
    marks = (0, 1, 5, 20, 50, 100)
    bar.set_ticks([mark / 100 for mark in marks], labels=[f"{mark} %" for mark in marks])
    bar.ax.tick_params(labelsize=8 if k <= 2 * WITH_NUMBERS else 18)
    bar.outline.set_visible(False)


def _write_shares(axes, shares: np.ndarray) -> None:
    """Percent in each cell that has half a percent or more."""
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share >= 0.005:
                colour = "white" if share > 0.35 else "#333333"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
