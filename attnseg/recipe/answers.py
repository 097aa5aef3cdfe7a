"""What is written for each image and frame: pictures, arrays and a table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attnseg.core.errors import UserError, check, did_you_mean
from attnseg.data import DatasetInfo
from attnseg.infer import ClassPrediction, Prediction
from attnseg.infer.prediction import raw_table
from attnseg.recipe.inputs import Item
from attnseg.recipe.video import VideoFile, video_type
from attnseg.viz import save_png

TABLE = "predictions.csv"
USUAL = ("index", "colour", "overlay", "contour")
TOP = 5  # classes of an image in the table

PICTURES: dict[str, Callable[[Prediction, float], np.ndarray]] = {
    "colour": lambda prediction, opacity: prediction.colours(),
    "overlay": lambda prediction, opacity: prediction.overlay(opacity),
    "contour": lambda prediction, opacity: prediction.contours(),
}
ARRAYS: dict[str, Callable[[Prediction], np.ndarray]] = {
    "index": lambda prediction: _stored(prediction.labels),
    "raw": lambda prediction: prediction.raw_ids(),
}
PROBS = "probs"
KINDS = (*ARRAYS, *PICTURES, PROBS)


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """Kinds of answers out of "index,overlay"; None gives the usual ones.

    Raises:
      UserError: an unknown kind.
    """
    if text is None:
        return USUAL
    kinds = tuple(part.strip() for part in text.split(",") if part.strip())
    for kind in kinds:
        check(
            kind in KINDS,
            f'--save: "{kind}" is not known.{did_you_mean(kind, KINDS)} Known: {", ".join(KINDS)}.',
        )
    check(bool(kinds), f"--save names nothing to write; known are {', '.join(KINDS)}.")
    return kinds


class Answers:
    """Writes ``OUTPUT/KIND/NAME.png``, ``OUTPUT/probs/NAME.npz``, videos and `TABLE`.

    Args:
      output: the folder; made where it is missing, files of the same names are replaced.
      info: the data set.
      kinds: of `KINDS`.
      opacity: of overlays.

    Raises:
      UserError: raw ids that no PNG can hold.
    """

    def __init__(
        self, output: Path, info: DatasetInfo, kinds: tuple[str, ...], opacity: float = 0.6
    ):
        check(0 <= opacity <= 1, f"--opacity={opacity} is not a share; use 0 to 1.")
        if "raw" in kinds:
            raw_table(info)
        self.output, self.kinds = output, kinds
        self._info, self._opacity = info, opacity
        self._rows: dict[tuple[str, int], list[Any]] = {}
        self._videos: dict[str, VideoFile] = {}

    def image(self, item: Item, prediction: Prediction | ClassPrediction) -> None:
        """Writes what is wanted of an image."""
        self._count(item, prediction, None)
        if isinstance(prediction, ClassPrediction):
            return
        for kind in self.kinds:
            if kind in PICTURES:
                picture = PICTURES[kind](prediction, self._opacity)
                save_png(self.output / kind / f"{item.name}.png", picture)
            else:
                self._array(kind, item.name, prediction)

    def frame(
        self, item: Item, number: int, rate: float, prediction: Prediction | ClassPrediction
    ) -> None:
        """Writes what is wanted of a frame: pictures as videos, arrays as files in a folder."""
        self._count(item, prediction, number)
        if isinstance(prediction, ClassPrediction):
            return
        for kind in self.kinds:
            if kind in PICTURES:
                if kind not in self._videos:
                    path = self.output / kind / f"{item.name}{video_type(item.path)}"
                    self._videos[kind] = VideoFile(path, rate, prediction.labels.shape)
                self._videos[kind].write(PICTURES[kind](prediction, self._opacity))
            else:
                self._array(kind, f"{item.name}/{number:06d}", prediction)

    def end_video(self, complete: bool) -> None:
        """Ends the videos that are being written."""
        for video in self._videos.values():
            video.close(complete)
        self._videos.clear()

    def write_table(self) -> Path:
        """Writes `TABLE`, in the order of the inputs' names; returns its path.

        Raises:
          UserError: it cannot be written.
        """
        path = self.output / TABLE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "frame", "height", "width", *self._columns()])
                writer.writerows(row for _, row in sorted(self._rows.items()))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from error
        return path

    def _columns(self) -> list[str]:
        if self._info.task == "segmentation":
            return [f"share/{name}" for name in self._info.classes]
        best = min(TOP, self._info.num_classes)
        return [f"{what}_{i + 1}" for i in range(best) for what in ("class", "probability")]

    def _count(self, item: Item, prediction, frame: int | None) -> None:
        if isinstance(prediction, ClassPrediction):
            values = [v for name, p in prediction.top(TOP) for v in (name, f"{p:.6f}")]
        else:
            values = [f"{share:.6f}" for share in prediction.shares().values()]
        size = prediction.image.shape[:2]
        row = [str(item.path), "" if frame is None else frame, *size, *values]
        self._rows[item.name, frame or 0] = row

    def _array(self, kind: str, name: str, prediction: Prediction) -> None:
        if kind != PROBS:
            save_png(self.output / kind / f"{name}.png", ARRAYS[kind](prediction))
            return
        path = self.output / PROBS / f"{name}.npz"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            values = prediction.probs().astype(np.float16)
            np.savez_compressed(path, probs=values, classes=np.asarray(prediction.class_names))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from error


def _stored(labels: np.ndarray) -> np.ndarray:
    """As PNG can hold them: 8 bits, 16 for more than 256 classes."""
    return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
