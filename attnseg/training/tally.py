"""What an evaluation adds up, over batches and processes, and the scores it ends in."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from attnseg.core.gather import gather
from attnseg.core.types import Counts
from attnseg.objectives import class_scores


@dataclasses.dataclass(frozen=True)
class ImageScores:
    """Scores of one image in 0..1.

    Attributes:
      name: its id.
      size: (h, w) of the original image.
      pixels: pixels that count.
      miou: mean IoU over the classes that the image's label or prediction has.
      aacc: share of right pixels.
      ious: IoU of each class; NaN for a class in neither, and for all if no pixel counts.
    """

    name: str
    size: tuple[int, int]
    pixels: int
    miou: float
    aacc: float
    ious: tuple[float, ...]


class Scores(dict[str, float]):
    """Scores of an evaluation by name, in 0..1, and what they were made of.

    Attributes:
      images: of each image, the worst first; empty for a classifier.
      confusion: i64 [k k], row = label; None for a classifier of many classes.
      programs: compiled so far.
    """

    images: tuple[ImageScores, ...] = ()
    confusion: np.ndarray | None = None
    programs: int = 0


class Tally:
    """Sums in int64 and float64, and the scores of single images."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.images: list[ImageScores] = []

    def add(self, counts: Counts) -> None:
        """Adds counts by name: integers or floats of any shape."""
        for name, value in counts.items():
            value = np.asarray(value)
            exact = np.int64 if np.issubdtype(value.dtype, np.integer) else np.float64
            value = value.astype(exact)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add_image(self, name: str, size: tuple[int, int], matrix: np.ndarray) -> None:
        """Scores an image by its confusion matrix [k k]; sums are left as they are."""
        pixels = int(matrix.sum())
        ious = class_scores(matrix)["iou"]
        miou = float(np.nanmean(ious)) if pixels else float("nan")
        aacc = float(np.trace(matrix) / pixels) if pixels else float("nan")
        size = (int(size[0]), int(size[1]))
        self.images.append(ImageScores(name, size, pixels, miou, aacc, tuple(ious.tolist())))

    def gathered(self) -> Tally:
        """The tally of all processes, which all must call this."""
        total = Tally()
        for content in gather(self._to_json()):
            total._add_json(json.loads(content))
        return total

    def _to_json(self) -> str:
        # Python writes a float so that it is read back exactly.
        sums = {name: [str(v.dtype), v.tolist()] for name, v in self.sums.items()}
        return json.dumps([sums, [dataclasses.astuple(image) for image in self.images]])

    def _add_json(self, content: list[Any]) -> None:
        sums, images = content
        self.add({name: np.asarray(value, dtype) for name, (dtype, value) in sums.items()})
        for name, size, pixels, miou, aacc, ious in images:
            self.images.append(ImageScores(name, tuple(size), pixels, miou, aacc, tuple(ious)))

    def scores(self, task: Any, programs: int) -> Scores:
        """What `task` makes of the sums."""
        scores = Scores(task.summarise([self.sums]))
        scores.images = tuple(sorted(self.images, key=_worst_first))
        scores.confusion = self.sums.get("confusion")
        scores.programs = programs
        return scores


def _worst_first(image: ImageScores) -> tuple[bool, float, str]:
    return (image.pixels == 0, image.miou if image.pixels else 0.0, image.name)
