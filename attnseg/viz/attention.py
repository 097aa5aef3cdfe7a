"""Maps over an image as heat, alone and in rows of panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attnseg.core.errors import check, check_shape
from attnseg.viz.canvas import figure_of, save_figure

PANEL = 1.45  # inches of a panel's width
MARK = (255, 255, 255)  # of the chosen pixel, on black

Panel = tuple[str, np.ndarray]


def heat(
    image: np.ndarray,
    values: np.ndarray,
    pixel: tuple[int, int] | None = None,
    opacity: float = 0.65,
    *,
    even: float = 0.0,
) -> np.ndarray:
    """Lays a map over its image, from dark violet (nothing) to light yellow (the most).

    Args:
      image: u8 [h w 3] RGB.
      values: f32 [gh gw], not negative, on any grid; it is enlarged smoothly.
      pixel: (y, x) to mark with a cross.
      opacity: of the colours.
      even: what is brightest has at least so many times the mean, so that a map that is nearly the
        same everywhere is not painted as if it had peaks.

    Returns:
      u8 [h w 3]. Colours follow the square root, so that weak parts are seen too; the 99.5th
      percentile is the brightest, so that one peak does not darken all else.

    Raises:
      UserError: shapes that do not fit.
    """
    import cv2
    from matplotlib import colormaps

    check_shape(image, (None, None, 3), "image under a map")
    check_shape(values, (None, None), "map")
    h, w = image.shape[:2]
    top = max(np.percentile(values, 99.5), values.max() / 4, even * values.mean())
    scaled = np.sqrt(np.clip(values / top if top > 0 else values, 0, 1)).astype(np.float32)
    scaled = np.clip(cv2.resize(scaled, (w, h), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = colormaps["inferno"](scaled)[..., :3].astype(np.float32) * 255
    # Grey underneath: colours then mean the map and nothing else.
    grey = image.astype(np.float32).mean(-1, keepdims=True)
    painted = np.rint(grey + opacity * (colours - grey)).astype(np.uint8)
    return painted if pixel is None else marked(painted, pixel)


def marked(image: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    """`image` with a cross at (y, x)."""
    import cv2

    side = max(7, min(image.shape[:2]) // 10)
    centre, kind = (int(pixel[1]), int(pixel[0])), cv2.MARKER_CROSS
    picture = cv2.drawMarker(
        np.ascontiguousarray(image), centre, (0, 0, 0), kind, side + 2, thickness=4
    )
    return cv2.drawMarker(picture, centre, MARK, kind, side, thickness=2)


def plot_panels(
    rows: Sequence[tuple[str, Sequence[Panel]]], path: str | Path, columns: int = 8
) -> None:
    """Draws rows of titled pictures; a row longer than `columns` goes on in the next line.

    Args:
      rows: a label and the panels, each a title and u8 [h w 3]; all pictures of one size.
      path: the PNG; its folder is made.
      columns: pictures in a line at most.

    Raises:
      UserError: there is no picture.
    """
    lines: list[tuple[str, Sequence[Panel]]] = []
    for label, panels in rows:
        for start in range(0, len(panels), columns):
            lines.append((label if start == 0 else "", panels[start : start + columns]))
    check(bool(lines), "there is no map to draw.")
    width = max(len(panels) for _, panels in lines)
    h, w = lines[0][1][0][1].shape[:2]
    figure = figure_of(width * PANEL + 0.5, len(lines) * (PANEL * h / w + 0.24))
    grid = figure.subplots(len(lines), width, squeeze=False)
    for axes_row, (label, panels) in zip(grid, lines, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, (title, picture) in zip(axes_row, panels, strict=False):
            axes.imshow(picture, interpolation="antialiased")
            axes.set_title(title, fontsize=8, pad=2, parse_math=False)
        if label:
            axes_row[0].text(
                -0.06,
                0.5,
                label,
                rotation=90,
                ha="right",
                va="center",
                fontsize=8.5,
                transform=axes_row[0].transAxes,
                parse_math=False,
            )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    save_figure(figure, path)
