"""What a network says about one image."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from attnseg import viz
from attnseg.core.errors import check
from attnseg.data import DatasetInfo


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A class for each pixel of an image.

    Attributes:
      image: u8 [h w 3] RGB, as it was given.
      labels: train ids [h w] of the same size: u8, i32 of more than 256 classes.
      info: the data set's classes, palette and label map.
    """

    image: np.ndarray
    labels: np.ndarray
    info: DatasetInfo
    _probs: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each train id."""
        return self.info.classes

    @property
    def palette(self) -> np.ndarray:
        """RGB of each train id, u8 [k 3]."""
        return np.asarray(self.info.palette, np.uint8)

    def probs(self) -> np.ndarray:
        """Probability of each class, f32 [h w k]; computed when asked for, 4 k bytes a pixel."""
        return self._probs()

    def colours(self) -> np.ndarray:
        """The label map in the palette's colours, u8 [h w 3]."""
        return viz.colourise(self.labels, self.palette)

    def overlay(self, opacity: float = 0.6) -> np.ndarray:
        """The colours over the image, u8 [h w 3]; `opacity` 0 leaves the image, 1 hides it."""
        return viz.overlay(self.image, self.labels, self.palette, opacity)

    def contours(self, width: int | None = None) -> np.ndarray:
        """The image with the edges of the classes drawn on it, u8 [h w 3]."""
        return viz.contours(self.image, self.labels, self.palette, width)

    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class, in the order of the classes; they add up to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        return dict(zip(self.class_names, (counts / self.labels.size).tolist(), strict=True))

    def raw_ids(self) -> np.ndarray:
        """The label map in the ids of the data set's own files, u8 or u16 [h w].

        Of several raw ids with one train id, the smallest.

        Raises:
          UserError: ids beyond 65535, which no label file holds.
        """
        return raw_table(self.info)[self.labels]


@dataclasses.dataclass(frozen=True)
class ClassPrediction:
    """A class for a whole image.

    Attributes:
      image: u8 [h w 3] RGB, as it was given.
      info: the data set's classes.
    """

    image: np.ndarray
    info: DatasetInfo
    _probs: np.ndarray = dataclasses.field(repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each train id."""
        return self.info.classes

    @property
    def label(self) -> int:
        """The most likely train id."""
        return int(np.argmax(self._probs))

    @property
    def name(self) -> str:
        """Its name."""
        return self.class_names[self.label]

    def probs(self) -> np.ndarray:
        """Probability of each class, f32 [k]."""
        return self._probs

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most likely classes with their probabilities, best first."""
        order = np.argsort(-self._probs, kind="stable")[:count]
        return [(self.class_names[i], float(self._probs[i])) for i in order]


@functools.lru_cache(maxsize=16)
def _table(pairs: tuple[tuple[int, int], ...], classes: int, name: str) -> np.ndarray:
    table = np.zeros(classes, np.int64)
    # From the largest down, so that the smallest raw id of a class is written last.
    for raw, train in sorted(pairs, reverse=True):
        if train < classes:
            table[train] = raw
    check(table.max() < 2**16, f"{name} has raw ids up to {table.max()}; label files end at 65535.")
    table = table.astype(np.uint8 if table.max() < 256 else np.uint16)
    table.setflags(write=False)  # shared through the cache
    return table


def raw_table(info: DatasetInfo) -> np.ndarray:
    """Raw id of each train id, u8 or u16 [k]; of several the smallest.

    Raises:
      UserError: ids beyond 65535.
    """
    return _table(tuple(info.label_map.items()), info.num_classes, info.name)
