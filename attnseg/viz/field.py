"""Effective receptive fields as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attnseg.core.errors import check
from attnseg.viz.canvas import figure_of, save_figure

PANEL = 1.9  # inches
SQUARES = ("#7fffd4", "#ffffff")


class FieldPanel(NamedTuple):
    """One field.

    Attributes:
      title: name of the stage.
      values: f32 [h w], largest 1.
      centre: (y, x) in pixels.
      sides: share of the field -> side in pixels of the square that holds it.
    """

    title: str
    values: np.ndarray
    centre: tuple[float, float]
    sides: Mapping[float, float]


def plot_fields(rows: Sequence[tuple[str, Sequence[FieldPanel]]], path: str | Path) -> None:
    """Draws the fields of each model in a row, with the squares that hold shares of them.

    Brightness is the square root of the field.

    Args:
      rows: name of a model and its panels.
      path: the PNG; its folder is made.

    Raises:
      UserError: there is nothing to draw.
    """
    check(any(panels for _, panels in rows), "there is no receptive field to draw.")
    width = max(len(panels) for _, panels in rows)
    h, w = next(panels[0].values.shape for _, panels in rows if panels)
    figure = figure_of(width * PANEL + 0.4, len(rows) * (PANEL * h / w + 0.46))
    grid = figure.subplots(len(rows), width, squeeze=False)
    for axes_row, (label, panels) in zip(grid, rows, strict=True):
        for axes in axes_row[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(axes_row, panels, strict=False):
            _draw(axes, panel)
        axes_row[0].set_ylabel(label, fontsize=9, parse_math=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    save_figure(figure, path)


def _draw(axes, panel: FieldPanel) -> None:
    from matplotlib.patches import Rectangle

    h, w = panel.values.shape
    axes.imshow(np.sqrt(panel.values), cmap="inferno", vmin=0, vmax=1, extent=(0, w, h, 0))
    told = []
    for (share, side), colour in zip(panel.sides.items(), SQUARES, strict=False):
        y, x = panel.centre
        corner = (x - side / 2, y - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.0))
        told.append(f"{share:.0%} in {side:.0f} px")
    axes.set_title(f"{panel.title}\n{', '.join(told)}", fontsize=8, pad=3, parse_math=False)
    axes.set_xlim(0, w)
    axes.set_ylim(h, 0)
    axes.set_xticks([])
    axes.set_yticks([])
