"""Figures of their own canvas, so that no global plotting state is touched."""

from __future__ import annotations

from pathlib import Path

from attnseg.core.errors import UserError

BLUE, ORANGE, GREEN, GREY = "#2a6f97", "#c8691c", "#2f7d4f", "#777777"
DPI = 110


def figure_of(width: float, height: float):
    """A matplotlib figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes, grid: str = "both") -> None:
    """A light grid and no frame above and to the right."""
    axes.grid(True, axis=grid, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save_figure(figure, path: str | Path, most: int = 380_000) -> None:
    """Writes a PNG and makes its folder.

    A file that would be larger than `most` bytes, as one full of photographs, is made with 256
    colours.

    Raises:
      UserError: the file cannot be written.
    """
    import io

    import numpy as np
    from PIL import Image

    path = Path(path)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG", optimize=True)
    if encoded.tell() > most:
        encoded = io.BytesIO()
        palette = picture.quantize(256)
        fewer = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        fewer.save(encoded, format="PNG", optimize=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
