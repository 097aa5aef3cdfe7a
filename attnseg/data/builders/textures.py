"""Fillings of shapes and clutter; each serves both, so that no texture tells a class."""

from __future__ import annotations

import cv2
import numpy as np

TEXTURES = ("plain", "stripes", "checks", "dots", "noise", "gradient")
PERIOD = (5.0, 9.0)  # pixels from stripe to stripe, check to check, dot to dot


def texture(rng: np.random.Generator, size: int, first, second) -> np.ndarray:
    """Returns a random texture of two colours.

    Args:
      rng: source of the texture.
      size: side in pixels.
      first, second: RGB colours, 0..255.

    Returns:
      f32 [size size 3], 0..255.
    """
    share = _SHARES[rng.integers(len(TEXTURES))](rng, size).astype(np.float32)[..., None]
    first, second = np.float32(first), np.float32(second)
    return first + share * (second - first)


def _axes(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular coordinates in periods, turned by a random angle."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(*PERIOD)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    u = (np.cos(angle) * x + np.sin(angle) * y) / period + rng.uniform()
    v = (np.cos(angle) * y - np.sin(angle) * x) / period + rng.uniform()
    return u, v


def _soft_step(wave: np.ndarray) -> np.ndarray:
    """A wave in -1..1 made nearly square, with edges about a pixel wide."""
    return np.clip(2.5 * wave, -1, 1) / 2 + 0.5


def _plain(rng, size):
    return np.zeros((size, size))


def _stripes(rng, size):
    u, _ = _axes(rng, size)
    return _soft_step(np.sin(2 * np.pi * u))


def _checks(rng, size):
    u, v = _axes(rng, size)
    return _soft_step(np.sin(np.pi * u) * np.sin(np.pi * v))


def _dots(rng, size):
    u, v = _axes(rng, size)
    distance = np.hypot(u - np.round(u), v - np.round(v))
    return np.clip((0.33 - distance) * 8 + 0.5, 0, 1)


def _noise(rng, size):
    coarse = rng.uniform(-0.3, 1.3, (size // 3 + 1, size // 3 + 1)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)


def _gradient(rng, size):
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    return np.clip(0.5 + 1.4 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)


_SHARES = (_plain, _stripes, _checks, _dots, _noise, _gradient)
