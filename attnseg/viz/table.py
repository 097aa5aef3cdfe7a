"""Scores as a table for the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

SCORES = {"iou": "IoU", "acc": "Acc", "precision": "Prec", "f1": "F1", "biou": "bIoU"}
MEANS = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "macc": "mAcc",
    "aacc": "aAcc",
    "fwiou": "fwIoU",
    "mbiou": "mbIoU",
}
WIDTH = 100


def class_table(summary: Mapping[str, float], class_names: Sequence[str]) -> str:
    """Sets the scores of each class in a table, with the means in a line below.

    Args:
      summary: ``iou/NAME`` and the others of `SCORES`, and the means, in 0..1, as
        `attnseg.objectives.Confusion.summary` gives them, or those of a classifier. A score that
        no class has gets no column.
      class_names: the rows, in this order; a score that is missing is shown as a dash.

    Returns:
      Lines of plain text, scores in percent.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    means = [f"{title} {_percent(summary[key])}" for key, title in MEANS.items() if key in summary]
    shown = [s for s in SCORES if any(key.startswith(f"{s}/") for key in summary)]
    if not shown:
        return "  ".join(means)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Class")
    for score in shown:
        table.add_column(SCORES[score], justify="right")
    for name in class_names:
        cells = [_percent(summary.get(f"{score}/{name}")) for score in shown]
        table.add_row(Text(name), *cells)  # Text, since "[x]" in a name is not markup
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(table)
    lines = [line[1:].rstrip() for line in console.file.getvalue().splitlines()]  # column of edge
    return "\n".join([*filter(None, lines), "  ".join(means)])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells set in columns under their heads; the first `left` columns are flush left."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for row in [heads, ["-" * width for width in widths], *rows]:
        cells = [
            f"{cell:{width}}" if index < left else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
