"""What the demo page shows of an image; the page itself is in `demo_page`."""

from __future__ import annotations

import functools
import html
import os

import cv2
import jax
import numpy as np

from attnseg.infer import ClassPrediction, Prediction, Predictor
from attnseg.infer.inside import Inside, has_attention, look_inside
from attnseg.viz.attention import heat

TOP = 5  # classes of a whole image that are named
LOOKED = 1024  # longer side, in pixels, of the image whose attention is looked at, at most
SMALLEST = 0.001  # share of the pixels from which on a class is listed


class Seen:
    """An image with its prediction; the network runs once for it, and once more for attention.

    Args:
      predictor: the network.
      image: a file or u8 [h w 3].

    Raises:
      UserError: an image that cannot be read, or that the network cannot take.
    """

    def __init__(self, predictor: Predictor, image: str | os.PathLike | np.ndarray):
        self._predictor = predictor
        self.prediction: Prediction | ClassPrediction = predictor(image)
        self.pixel: tuple[int, int] | None = None  # (y, x), the last one clicked
        self._maps: dict[str, np.ndarray] = {}

    def picture(self, opacity: float) -> np.ndarray:
        """The classes over the image, u8 [h w 3]; without classes of pixels the image."""
        if isinstance(self.prediction, ClassPrediction):
            return self.prediction.image
        return self.prediction.overlay(opacity)

    def table(self) -> str:
        """Shares of the classes, or the likeliest classes, as bars in HTML; largest first."""
        if isinstance(self.prediction, ClassPrediction):
            rows = [(name, p, None) for name, p in self.prediction.top(TOP)]
            return _bars("class", "probability", rows)
        shares = self.prediction.shares()
        colours = dict(zip(self.prediction.class_names, self.prediction.palette, strict=True))
        rows = [(n, s, colours[n]) for n, s in shares.items() if s >= SMALLEST]
        return _bars("class", "share", sorted(rows, key=lambda row: -row[1]))

    def look(self, pixel: tuple[int, int]) -> list[str]:
        """Looks where the network attends for a pixel (y, x) of the image; names of the maps."""
        h, w = self.prediction.image.shape[:2]
        y, x = (min(max(0, int(p)), side - 1) for p, side in zip(pixel, (h, w), strict=True))
        self.pixel = (y, x)
        rows, columns = self._inside.size
        self._maps = self._inside.attention(
            (int((y + 0.5) * rows / h), int((x + 0.5) * columns / w))
        )
        return list(self._maps)

    def attention(self, name: str) -> np.ndarray:
        """A map of the pixel last looked at over the image, u8 [h w 3]; the pixel is marked."""
        return heat(self.prediction.image, self._maps[name], self.pixel)

    def told(self) -> str:
        """The pixel last looked at, in words."""
        if self.pixel is None:
            return ""
        y, x = self.pixel
        what = ""
        if isinstance(self.prediction, Prediction):
            what = f" ({self.prediction.class_names[self.prediction.labels[y, x]]})"
        return f"Where the network looks for the pixel in row {y}, column {x}{what}"

    @functools.cached_property
    def _inside(self) -> Inside:
        predictor = self._predictor
        tile = predictor.fitted(self.prediction.image)
        longer = max(tile.shape[:2])
        if longer > LOOKED:
            size = tuple(max(1, round(side * LOOKED / longer)) for side in tile.shape[1::-1])
            tile = cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
        normalised = jax.device_get(predictor.normalised(tile))
        return look_inside(predictor.model, predictor.variables, normalised)


def attends(predictor: Predictor) -> bool:
    """Whether the network attends from pixel to pixel."""
    side = 224
    if not predictor.segments:
        return has_attention(predictor.model, predictor.geometry.crop)
    return has_attention(predictor.model, (side, side))


def _bars(what: str, value: str, rows: list[tuple[str, float, np.ndarray | None]]) -> str:
    """Rows of name, number in 0..1 and colour as an HTML table; names are escaped."""
    lines = []
    for name, number, colour in rows:
        rgb = "#2a6f97" if colour is None else "#{:02x}{:02x}{:02x}".format(*map(int, colour))
        lines.append(
            f'<tr><td><span class="swatch" style="background:{rgb}"></span>{html.escape(name)}</td>'
            f'<td class="number">{100 * number:.1f} %</td><td class="bar"><div style="width:'
            f'{100 * number:.2f}%;background:{rgb}"></div></td></tr>'
        )
    head = f'<tr><th>{what}</th><th class="number">{value}</th><th></th></tr>'
    return f'<table class="classes">{head}{"".join(lines)}</table>'
