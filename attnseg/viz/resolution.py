"""Scores over the size of the tested images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnseg.viz.canvas import BLUE, GREEN, GREY, dress, figure_of, save_figure

COLOURS = (GREEN, BLUE)


def plot_resolution(result: Mapping[str, Any], names: Mapping[str, str], path: str | Path) -> None:
    """Draws the mIoU of variants over the height of the test image, the crop's as a line.

    Args:
      result: ``sizes`` [[h, w] ...], ``crop`` [h, w], ``split`` and ``miou`` {variant: values}.
      names: of the variants.
      path: the PNG; its folder is made.
    """
    figure = figure_of(6.0, 3.8)
    axes = figure.add_subplot()
    dress(axes)
    heights = [h for h, _ in result["sizes"]]
    for (variant, values), colour in zip(result["miou"].items(), COLOURS, strict=False):
        axes.plot(heights, values, color=colour, marker="o", markersize=4, label=names[variant])
    axes.axvline(result["crop"][0], color=GREY, linewidth=1.0, linestyle=":")
    axes.annotate(
        " training crop",
        (result["crop"][0], 0.02),
        xycoords=("data", "axes fraction"),
        fontsize=8.5,
        color=GREY,
    )
    axes.set_title(f"mIoU on {result['split']} by height of the image", loc="left", fontsize=11)
    axes.set_xlabel("pixels")
    axes.set_xticks(heights)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path)
