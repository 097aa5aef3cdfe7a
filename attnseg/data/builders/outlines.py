"""Outlines of the shapes: closed contours around the origin; a class is an outline.

A contour is f64 [points 2] of (x, y) in units of the circumscribed radius; a shape is a list of
contours, the second of which is a hole.
"""

from __future__ import annotations

import numpy as np

CIRCLE_POINTS = 64
RING_HOLE = 0.55  # inner radius over outer radius
STAR_WAIST = 0.42  # radius of a star's notches
CROSS_ARM = 0.30  # half width of a cross's arms
CRESCENT_SHIFT = 0.55  # how far the disc that bites the crescent out is moved
CRESCENT_BITE = 0.80  # and its radius


def _circle(radius: float = 1.0) -> np.ndarray:
    angle = np.arange(CIRCLE_POINTS) * (2 * np.pi / CIRCLE_POINTS)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polygon(corners: int, waist: float | None = None) -> np.ndarray:
    """Regular polygon, or a star with `corners` points if its notches lie at radius `waist`."""
    count = corners if waist is None else 2 * corners
    angle = np.arange(count) * (2 * np.pi / count)
    radius = np.ones(count)
    if waist is not None:
        radius[1::2] = waist
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _cross() -> np.ndarray:
    a, b = CROSS_ARM, np.sqrt(1 - CROSS_ARM**2)
    quarter = np.array([[b, -a], [b, a], [a, a]])
    turn = np.array([[0, 1], [-1, 0]])  # rows turned by a right angle: (x, y) -> (-y, x)
    turns = [quarter @ np.linalg.matrix_power(turn, i) for i in range(4)]
    return np.concatenate(turns)


def _crescent() -> np.ndarray:
    """The unit disc without a disc of radius `CRESCENT_BITE` at (`CRESCENT_SHIFT`, 0)."""
    d, r = CRESCENT_SHIFT, CRESCENT_BITE
    x = (1 - r**2 + d**2) / (2 * d)  # where the two circles cut
    outer_angle = np.arccos(x)
    inner_angle = np.arctan2(np.sqrt(1 - x**2), x - d)
    outer = np.linspace(outer_angle, 2 * np.pi - outer_angle, CIRCLE_POINTS)
    inner = np.linspace(2 * np.pi - inner_angle, inner_angle, CIRCLE_POINTS)
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([d + r * np.cos(inner), r * np.sin(inner)], axis=1),
        ]
    )


OUTLINES: dict[str, list[np.ndarray]] = {
    "disc": [_circle()],
    "ring": [_circle(), _circle(RING_HOLE)],
    "square": [_polygon(4)],
    "triangle": [_polygon(3)],
    "star": [_polygon(5, STAR_WAIST)],
    "cross": [_cross()],
    "crescent": [_crescent()],
}

# Factors on the radius that bring the classes nearer to one area, and so to one pixel share.
SIZE: dict[str, float] = {
    "disc": 0.85,
    "ring": 1.0,
    "square": 1.0,
    "triangle": 1.15,
    "star": 1.15,
    "cross": 1.1,
    "crescent": 1.15,
}


def blob(rng: np.random.Generator, roughness: float) -> list[np.ndarray]:
    """Returns an irregular outline that is none of the classes.

    Args:
      rng: source of the outline.
      roughness: share of the radius by which the outline wavers, 0..1.
    """
    angle = np.arange(CIRCLE_POINTS) * (2 * np.pi / CIRCLE_POINTS)
    orders = np.arange(2, 6)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (4, 1))
    weights = rng.uniform(0.3, 1.0, (4, 1)) / orders
    wave = (weights * np.cos(orders * angle + phases)).sum(0)
    radius = 1 + roughness * wave / np.abs(wave).max()
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    stretch = np.array([1.0, rng.uniform(0.55, 0.9)])
    return [points * stretch / radius.max()]


def area(contours: list[np.ndarray]) -> float:
    """Returns the area in squared radii; contours after the first are holes."""

    def one(points: np.ndarray) -> float:
        x, y = points.T
        return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))

    return one(contours[0]) - sum(one(hole) for hole in contours[1:])


def place(contours: list[np.ndarray], radius: float, angle: float, centre) -> list[np.ndarray]:
    """Returns the contours scaled to `radius` pixels, turned by `angle` radians and moved."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [radius * points @ turn + np.asarray(centre) for points in contours]
