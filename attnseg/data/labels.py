"""Looks at every label before training: what there is of each class, and whether all is well."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib

import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.types import ID, IGNORE, IMAGE, LABEL, Example
from attnseg.data.info import DatasetInfo
from attnseg.data.sources import Source


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """Pixels per class.

    Attributes:
      classes: name of each train id.
      counts: i64 [k], pixels of each train id.
      ignored: pixels with `IGNORE`.
      files: number of examples looked at.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    ignored: int
    files: int

    def table(self) -> str:
        """Returns one line per class: train id, name, pixels, share of all pixels in percent."""
        total = max(1, int(self.counts.sum()) + self.ignored)
        rows = [(str(i), name, int(self.counts[i])) for i, name in enumerate(self.classes)]
        rows.append((str(IGNORE), "(ignored)", self.ignored))
        width = max(len(name) for _, name, _ in rows)
        lines = [
            f"{i:>3}  {name:<{width}}  {pixels:>14,}  {100 * pixels / total:6.2f} %"
            for i, name, pixels in rows
        ]
        return "\n".join([f" id  {'class':<{width}}  {'pixels':>14}   share", *lines])


def scan_labels(source: Source, info: DatasetInfo, max_files: int | None = None) -> LabelReport:
    """Counts the labels of a data set and checks them.

    A scan of all files is kept beside the prepared data, so that the next one is instant.

    Args:
      source: examples whose labels are train ids already.
      info: names the classes and their number.
      max_files: look at the first so many examples only; None for all.

    Raises:
      UserError: an annotation cannot be read, differs from its image in size, or holds a value
        that is no class; names the example, the value, the pixel count and the cure.
    """
    files = len(source) if max_files is None else min(max_files, len(source))
    store = _store(source, info) if files == len(source) else None
    if store is not None and store.exists():
        with contextlib.suppress(ValueError, KeyError):  # a damaged file is written anew
            kept = json.loads(store.read_text())
            return LabelReport(
                info.classes, np.array(kept["counts"], np.int64), kept["ignored"], kept["files"]
            )
    counts = np.zeros(IGNORE + 1, np.int64)
    for index in range(files):
        counts += _count(source[index], info)
    report = LabelReport(info.classes, counts[: info.num_classes], int(counts[IGNORE]), files)
    if store is not None:
        _keep(store, report)
    return report


def _count(example: Example, info: DatasetInfo) -> np.ndarray:
    """Counts each value 0..255 of a label, i64 [256]."""
    image, label = example[IMAGE].shape[:2], example[LABEL].shape
    check(
        image == label,
        f'{info.name} "{example[ID]}": the image is {image[1]}x{image[0]} and its annotation '
        f"{label[1]}x{label[0]} pixels; they must be equal, replace the one that is wrong.",
    )
    counts = np.bincount(example[LABEL].ravel(), minlength=IGNORE + 1)
    wrong = np.flatnonzero(counts[info.num_classes : IGNORE]) + info.num_classes
    if wrong.size:
        raise UserError(
            f'{info.name} "{example[ID]}": label value {wrong[0]} ({counts[wrong[0]]} pixels) is '
            f"none of the {info.num_classes} classes 0..{info.num_classes - 1} nor {IGNORE}; "
            "correct the annotation or the label map."
        )
    return counts


def _store(source: Source, info: DatasetInfo) -> pathlib.Path | None:
    """The file that keeps the scan of just this data with just this label map."""
    folder = getattr(source, "cache_dir", None)
    if folder is None:
        return None
    key = f"{source!r} {info.classes} {sorted(info.label_map.items())}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return pathlib.Path(folder) / f"label_counts.{digest}.json"


def _keep(store: pathlib.Path, report: LabelReport) -> None:
    kept = {"counts": report.counts.tolist(), "ignored": report.ignored, "files": report.files}
    partial = store.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a read-only copy only costs the time of another scan
        partial.write_text(json.dumps(kept))
        partial.replace(store)
