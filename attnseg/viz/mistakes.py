"""Pairs of classes that are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attnseg.core.errors import check
from attnseg.viz.canvas import BLUE, dress, figure_of, save_figure


class Confused(NamedTuple):
    """Pixels of class `label` that were taken for `prediction`, and their share of `label`."""

    label: str
    prediction: str
    pixels: int
    share: float


def pairs_table(pairs: Sequence[Confused]) -> str:
    """Lines of text, one a pair; scores in percent of the label's pixels."""
    if not pairs:
        return "no class was taken for another"
    names = max(len(pair.label) for pair in pairs), max(len(pair.prediction) for pair in pairs)
    return "\n".join(
        f"{pair.label:{names[0]}} taken for {pair.prediction:{names[1]}}  "
        f"{100 * pair.share:5.1f} % of its pixels, {pair.pixels:,} pixels"
        for pair in pairs
    )


def plot_pairs(pairs: Sequence[Confused], path: str | Path) -> None:
    """Draws the share of each pair as a bar, the largest on top.

    Raises:
      UserError: there is no pair.
    """
    check(bool(pairs), "no class was taken for another; nothing to draw.")
    figure = figure_of(7.0, 0.9 + 0.28 * len(pairs))
    axes = figure.add_subplot()
    dress(axes, grid="x")
    rows = np.arange(len(pairs))[::-1]
    shares = [pair.share for pair in pairs]
    axes.barh(rows, shares, height=0.68, color=BLUE)
    for row, share in zip(rows, shares, strict=True):
        axes.text(share + 0.01, row, f"{share:.1%}", va="center", fontsize=9)
    names = [f"{pair.label} taken for {pair.prediction}" for pair in pairs]
    axes.set_yticks(rows, names, fontsize=9, parse_math=False)
    axes.set_title("Share of a class's pixels taken for another", loc="left", fontsize=11)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlim(0, max(shares) * 1.18)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.tick_params(axis="y", length=0)
    save_figure(figure, path)
