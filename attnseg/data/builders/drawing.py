"""Draws one scene of `shapes`: clutter, then overlapping textured shapes, then the camera."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from attnseg.core.types import IGNORE
from attnseg.data.builders import outlines
from attnseg.data.builders.textures import texture

CLASSES = ("background", *outlines.OUTLINES)
_SUBPIXEL_BITS = 4  # fractional bits of the coordinates given to OpenCV
_PLACEMENT_TRIES = 30
_COLOUR_TRIES = 12
HUES = np.arange(len(CLASSES) - 1) / (len(CLASSES) - 1)  # of the classes, in turns
HUE_SPREAD = 0.02  # standard deviation of a hue


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard the scenes are; lengths in pixels, colours and contrasts in 0..255.

    Attributes:
      size: side of the image.
      shapes: least and most shapes an image.
      radius: least and greatest radius, before the class's factor in `outlines.SIZE`.
      habit: share of shapes that wear their class's own colour; the others, and all clutter, wear
        any class's.
      min_visible: share of a shape's area that must stay in sight, below which it is moved.
      contrast: colour distance sought between a filling and what lies around it.
      texture_contrast: least and greatest distance between the two colours of a filling.
      blobs, patches, lines: least and most of each kind of clutter.
      roughness: waver of irregular outlines, as a share of their radius.
      blur: greatest standard deviation of the blur.
      noise: least and greatest standard deviation of the noise.
      ignore_ring: share of shapes with a ring of ignored pixels.
      ignore_blob: chance of an ignored blob in an image.
    """

    size: int = 96
    shapes: tuple[int, int] = (2, 4)
    radius: tuple[float, float] = (16.0, 30.0)
    habit: float = 0.97
    min_visible: float = 0.6
    contrast: float = 75.0
    texture_contrast: tuple[float, float] = (40.0, 110.0)
    blobs: tuple[int, int] = (1, 2)
    patches: tuple[int, int] = (1, 3)
    lines: tuple[int, int] = (2, 5)
    roughness: float = 0.35
    blur: float = 0.7
    noise: tuple[float, float] = (2.0, 7.0)
    ignore_ring: float = 1 / 3
    ignore_blob: float = 0.4


def draw_scene(rng: np.random.Generator, difficulty: Difficulty) -> tuple[np.ndarray, np.ndarray]:
    """Draws one example.

    Args:
      rng: decides everything; equal generators give equal pixels.
      difficulty: sizes, counts and contrasts.

    Returns:
      image u8 [size size 3] RGB, label u8 [size size] of class ids or `IGNORE`.
    """
    canvas = _background(rng, difficulty)
    label = np.zeros(canvas.shape[:2], np.uint8)
    owner = np.zeros(canvas.shape[:2], np.uint8)  # which shape each pixel belongs to, 0 for none
    for number, (class_id, contours) in enumerate(_placed_shapes(rng, difficulty), start=1):
        wears = class_id if rng.uniform() < difficulty.habit else _whole(rng, (1, len(HUES)))
        inside = _fill(rng, canvas, contours, wears, difficulty) >= 0.5
        label[inside], owner[inside] = class_id, number
    _ignore_some(rng, label, owner, difficulty)
    return _photograph(rng, canvas, difficulty), label


def _whole(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def _coverage(contours: list[np.ndarray], size: int) -> np.ndarray:
    """Share of each pixel inside the contours, f32 [size size], antialiased."""
    # Whole coordinates are pixel centres for OpenCV, hence the half.
    fixed = [np.round((c - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32) for c in contours]
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def _placed_shapes(rng, difficulty: Difficulty) -> list[tuple[int, list[np.ndarray]]]:
    """Chooses shapes, bottom first, none of which hides too much of an earlier one.

    A shape that finds no place after some tries is dropped.
    """
    placed, owner, areas = [], np.zeros((difficulty.size,) * 2, np.uint8), [1.0]
    for _ in range(_whole(rng, difficulty.shapes)):
        class_id = _whole(rng, (1, len(CLASSES) - 1))
        for _ in range(_PLACEMENT_TRIES):
            contours = _pose(rng, CLASSES[class_id], difficulty)
            trial = owner.copy()
            trial[_coverage(contours, difficulty.size) >= 0.5] = len(placed) + 1
            whole = [*areas, outlines.area(contours)]
            seen = np.bincount(trial.ravel(), minlength=len(whole))
            if (seen[1:] >= difficulty.min_visible * np.array(whole[1:])).all():
                placed.append((class_id, contours))
                owner, areas = trial, whole
                break
    return placed


def _pose(rng, name: str, difficulty: Difficulty) -> list[np.ndarray]:
    radius = rng.uniform(*difficulty.radius) * outlines.SIZE[name]
    margin = 0.6 * radius  # a shape may stand out of the frame a little
    centre = rng.uniform(margin, difficulty.size - margin, 2)
    return outlines.place(outlines.OUTLINES[name], radius, rng.uniform(0, 2 * np.pi), centre)


def _fill(rng, canvas: np.ndarray, contours, wears: int, difficulty: Difficulty) -> np.ndarray:
    """Paints `contours` onto `canvas` in the colour of class `wears`; returns the coverage."""
    coverage = _coverage(contours, len(canvas))
    band = cv2.dilate(coverage, np.ones((5, 5))) - coverage > 0.5
    around = canvas[band] if band.any() else canvas.reshape(-1, 3)
    low = np.floor(contours[0].min(0)).astype(int)
    side = int(np.ceil(contours[0].max(0) - low).max()) + 1
    filling = texture(rng, side, *_colours(rng, around, HUES[wears - 1], difficulty))
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(low + side, len(canvas))
    part = (slice(y0, y1), slice(x0, x1))
    alpha = coverage[part][..., None]
    filling = filling[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    canvas[part] += alpha * (filling - canvas[part])
    return coverage


def _colours(
    rng, around: np.ndarray, hue: float, difficulty: Difficulty
) -> tuple[np.ndarray, np.ndarray]:
    """Two colours about `hue` which both stand out from most of the pixels `around` [count 3]."""
    best, best_score = None, -1.0
    for _ in range(_COLOUR_TRIES):
        turn, saturation = hue + rng.normal(0, HUE_SPREAD), rng.uniform(0.55, 1)
        light = rng.uniform(90, 250)
        dark = light - rng.uniform(*difficulty.texture_contrast) * (1 if light > 160 else -1)
        first, second = (_rgb(turn, saturation, value) for value in (light, dark))
        distance = [np.linalg.norm(around - c, axis=1) for c in (first, second)]
        # The fifth part of the rim that is least visible decides.
        score = np.quantile(np.minimum(*distance), 0.2)
        if score > best_score:
            best, best_score = (first, second), score
        if score >= difficulty.contrast:
            break
    return best


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB f64 [3] in 0..255 of an HSV colour; hue in turns, saturation 0..1, value 0..255."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _background(rng, difficulty: Difficulty) -> np.ndarray:
    """Smooth colour, texture patches, lines and irregular blobs: f32 [size size 3]."""
    size = difficulty.size
    coarse = rng.normal(0, 28, (4, 4, 3)) + rng.uniform(60, 195, 3)
    canvas = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    canvas = np.clip(canvas, 0, 255)
    for _ in range(_whole(rng, difficulty.patches)):
        _patch(rng, canvas, difficulty)
    for _ in range(_whole(rng, difficulty.lines)):
        _line(rng, canvas)
    for _ in range(_whole(rng, difficulty.blobs)):
        radius = rng.uniform(0.5, 0.9) * rng.uniform(*difficulty.radius)
        _fill(rng, canvas, _blob(rng, radius, difficulty), _whole(rng, (1, len(HUES))), difficulty)
    return canvas


def _blob(rng, radius: float, difficulty: Difficulty) -> list[np.ndarray]:
    shape = outlines.blob(rng, difficulty.roughness)
    margin = 0.9 * radius  # cut by the frame, a blob could pass for a class
    centre = rng.uniform(margin, difficulty.size - margin, 2)
    return outlines.place(shape, radius, rng.uniform(0, 2 * np.pi), centre)


def _patch(rng, canvas: np.ndarray, difficulty: Difficulty) -> None:
    """Lays a faint texture over a large irregular part of the canvas."""
    contours = _blob(rng, rng.uniform(0.25, 0.5) * difficulty.size, difficulty)
    alpha = cv2.GaussianBlur(_coverage(contours, difficulty.size), None, 3)[..., None]
    step = rng.normal(0, 25, 3)
    canvas += alpha * texture(rng, difficulty.size, step, -step)


def _line(rng, canvas: np.ndarray) -> None:
    """Draws a thin curve from edge to edge."""
    size = len(canvas)
    start, bend, end = rng.uniform(-0.2 * size, 1.2 * size, (3, 2))
    t = np.linspace(0, 1, 24)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros((size, size), np.uint8)
    cv2.polylines(
        mask,
        [np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)],
        isClosed=False,
        color=255,
        thickness=_whole(rng, (1, 2)),
        lineType=cv2.LINE_AA,
        shift=_SUBPIXEL_BITS,
    )
    alpha = (mask.astype(np.float32) / 255 * rng.uniform(0.5, 1))[..., None]
    canvas += alpha * (rng.uniform(0, 255, 3).astype(np.float32) - canvas)


def _ignore_some(rng, label: np.ndarray, owner: np.ndarray, difficulty: Difficulty) -> None:
    """Marks rims of some shapes, and now and then a blob, as `IGNORE`, in place."""
    for number in range(1, int(owner.max()) + 1):
        if rng.uniform() < difficulty.ignore_ring:
            own = (owner == number).astype(np.uint8)
            rim = cv2.morphologyEx(own, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))
            label[rim > 0] = IGNORE
    if rng.uniform() < difficulty.ignore_blob:
        contours = _blob(rng, rng.uniform(4, 9), difficulty)
        label[_coverage(contours, len(label)) >= 0.5] = IGNORE


def _photograph(rng, canvas: np.ndarray, difficulty: Difficulty) -> np.ndarray:
    """Blurs slightly, adds noise and rounds to u8."""
    sigma = rng.uniform(0, difficulty.blur)
    if sigma > 0.2:
        canvas = cv2.GaussianBlur(canvas, None, sigma)
    noise = rng.normal(0, rng.uniform(*difficulty.noise), canvas.shape)
    return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)
