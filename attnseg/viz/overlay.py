"""Label maps as colours, alone, over their image, and side by side with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attnseg.core.errors import UserError, check, check_shape
from attnseg.core.types import IGNORE

PANEL = 256  # a comparison enlarges its panels to at least this many pixels on the shorter side
HATCH = ((96, 96, 96), (168, 168, 168))  # stripes of ignored pixels; no palette has stripes
HATCH_WIDTH = 4
FRAME = 102  # grey around a square of the legend, which may be white itself


def colourise(labels: np.ndarray, palette: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Paints a label map.

    Args:
      labels: integers [h w], 0..k-1 or IGNORE.
      palette: RGB in 0..255, [k 3].

    Returns:
      u8 [h w 3]; ignored pixels carry grey diagonal stripes.

    Raises:
      UserError: a label without a colour.
    """
    labels = np.asarray(labels)
    check_shape(labels, (None, None), "label map")
    colours = np.asarray(palette, np.uint8)
    check_shape(colours, (None, 3), "palette")
    ignored = labels == IGNORE
    stray = labels[~ignored & ((labels < 0) | (labels >= len(colours)))]
    check(
        stray.size == 0,
        f"label map holds {stray[:1]} ({stray.size} pixels outside the classes), but the palette "
        f"has colours for 0..{len(colours) - 1}.",
    )
    painted = colours[np.where(ignored, 0, labels)]
    painted[ignored] = _hatch(*labels.shape)[ignored]
    return painted


def _hatch(height: int, width: int) -> np.ndarray:
    stripe = (np.arange(height)[:, None] + np.arange(width)) // HATCH_WIDTH % 2
    return np.asarray(HATCH, np.uint8)[stripe]


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray | Sequence[Sequence[int]],
    opacity: float = 0.6,
) -> np.ndarray:
    """Lays the colours of a label map over its image.

    Args:
      image: u8 [h w 3] RGB.
      labels: integers [h w], 0..k-1 or IGNORE.
      palette: RGB in 0..255, [k 3].
      opacity: of the colours; 0 leaves the image, 1 hides it.

    Returns:
      u8 [h w 3].

    Raises:
      UserError: sizes that differ, or a label without a colour.
    """
    image = np.asarray(image)
    check_shape(image, (*np.shape(labels), 3), "image under the label map")
    colours = colourise(labels, palette).astype(np.float32)
    return np.rint(image + opacity * (colours - image)).astype(np.uint8)


def comparison(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    palette: np.ndarray | Sequence[Sequence[int]],
    class_names: Sequence[str],
) -> np.ndarray:
    """Image, ground truth and prediction in a row, with titles and the classes that occur.

    Args:
      image: u8 [h w 3] RGB.
      label: integers [h w], 0..k-1 or IGNORE.
      prediction: integers [h w], 0..k-1.
      palette: RGB in 0..255, [k 3].
      class_names: k names.

    Returns:
      u8 [H W 3]; small inputs are enlarged by a whole factor, without smoothing.

    Raises:
      UserError: sizes that differ, or a label without a colour or a name.
    """
    check(
        len(class_names) == len(palette),
        f"{len(class_names)} class names for a palette of {len(palette)} colours.",
    )
    factor = max(1, -(-PANEL // min(np.shape(label))))
    image, label, prediction = (_enlarge(x, factor) for x in (image, label, prediction))
    panels = {
        "Image": image,
        "Ground truth": overlay(image, label, palette),
        "Prediction": overlay(image, prediction, palette),
    }
    present = np.union1d(label, prediction)
    names = {int(i): "ignored" if i == IGNORE else class_names[i] for i in present}
    return _sheet(panels, names, palette)


def _enlarge(array: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(array).repeat(factor, axis=0).repeat(factor, axis=1)


def _sheet(panels: dict[str, np.ndarray], names: dict[int, str], palette) -> np.ndarray:
    """Panels in a row under their titles, the names of labels below; u8 [H W 3] on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(panels.values())).shape[:2]
    font = max(13, round(width / 30))  # pixels; at 72 dots an inch, a point is a pixel
    gap = max(4, width // 64)
    strip_width = len(panels) * width + (len(panels) - 1) * gap
    figure = Figure(dpi=72)
    canvas = FigureCanvasAgg(figure)

    def text_width(text: str) -> float:
        artist = figure.text(0, 0, text, fontsize=font)
        extent = artist.get_window_extent(canvas.get_renderer()).width
        artist.remove()
        return extent

    places = _flow(
        [2.0 * font + text_width(name) for name in names.values()], strip_width, 1.2 * font
    )
    title, line = 1.8 * font, 1.7 * font
    lines = 1 + max((row for _, row in places), default=-1)
    total = round(gap + title + height + (gap + lines * line if lines else 0) + gap)
    figure.set_size_inches((strip_width + 2 * gap) / 72, total / 72)

    top = total - gap - title
    for index, (name, panel) in enumerate(panels.items()):
        left = gap + index * (width + gap)
        figure.figimage(panel, left, round(top) - height)
        _text(figure, left, top + title / 2, name, font, weight="bold")
    for (label, name), (x, row) in zip(names.items(), places, strict=True):
        middle = top - height - gap - (row + 0.5) * line
        figure.figimage(_swatch(label, palette, font), round(gap + x), round(middle - font / 2))
        _text(figure, gap + x + 1.5 * font, middle, name, font)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _flow(widths: list[float], room: float, space: float) -> list[tuple[float, int]]:
    """Left edge and line of boxes set one after another, a new line where one does not fit."""
    places: list[tuple[float, int]] = []
    x, row = 0.0, 0
    for width in widths:
        if x and x + width > room:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += width + space
    return places


def _text(figure, x: float, y: float, text: str, size: float, weight: str = "normal") -> None:
    """Writes at pixels from the lower left corner; `y` is the middle of the line."""
    from matplotlib.transforms import IdentityTransform

    figure.text(
        x,
        y,
        text,
        fontsize=size,
        weight=weight,
        va="center_baseline",
        color="#222222",
        transform=IdentityTransform(),
        parse_math=False,
    )


def _swatch(label: int, palette, side: int) -> np.ndarray:
    """A framed square of a label as `colourise` paints it, u8 [side side 3]."""
    square = np.full((side, side, 3), FRAME, np.uint8)
    square[1:-1, 1:-1] = colourise(np.full((side - 2, side - 2), label), palette)
    return square


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes u8 [h w 3] RGB, or u8 [h w], as a PNG; makes the folder.

    Raises:
      UserError: the file cannot be written.
    """
    import cv2

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(stored))
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from error
