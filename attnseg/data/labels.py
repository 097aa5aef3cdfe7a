"""Looks at every label before training: what there is of each class, and whether all is well."""

from __future__ import annotations

import concurrent.futures
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

_MANY = 20  # faults beyond the allowed ones after which a scan gives up


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """Pixels per class; of classification data, images per class.

    Attributes:
      classes: name of each train id.
      counts: i64 [k], pixels of each train id.
      ignored: pixels with `IGNORE`.
      files: number of examples counted.
      task: of the data set.
      failed: what is wrong with the examples that were left out, a sentence each.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    ignored: int
    files: int
    task: str = "segmentation"
    failed: tuple[str, ...] = ()

    def describe(self, total: int) -> str:
        """The table below the number of examples counted, of `total`, and those left out."""
        looked = self.files + len(self.failed)
        part = f"a sample of {looked} of {total}" if looked < total else f"all {total}"
        lines = [f"{part} examples looked at", *(f"left out: {fault}" for fault in self.failed)]
        return "\n".join([*lines, self.table()])

    def table(self) -> str:
        """Returns one line per class: train id, name, pixels (images), their share in percent."""
        total = max(1, int(self.counts.sum()) + self.ignored)
        rows = [(str(i), name, int(self.counts[i])) for i, name in enumerate(self.classes)]
        unit = "images"
        if self.task == "segmentation":
            unit = "pixels"
            rows.append((str(IGNORE), "(ignored)", self.ignored))
        width = max(len(name) for _, name, _ in rows)
        lines = [
            f"{i:>3}  {name:<{width}}  {pixels:>14,}  {100 * pixels / total:6.2f} %"
            for i, name, pixels in rows
        ]
        return "\n".join([f" id  {'class':<{width}}  {unit:>14}   share", *lines])


def scan_labels(
    source: Source, info: DatasetInfo, max_files: int | None = None, max_failed: int = 0
) -> LabelReport:
    """Counts the labels of a data set and checks them.

    A scan without faults is kept beside the prepared data, so that the next one is instant; of a
    folder it is made anew when a file's size or time of change differs.

    Args:
      source: examples whose labels are train ids already.
      info: names the classes and their number.
      max_files: look at so many examples only, evenly spread; None for all.
      max_failed: examples that may have faults and are left out.

    Raises:
      UserError: more than `max_failed` examples cannot be read, have an annotation that differs
        from its image in size, or hold a value that is no class; or all labels together cannot
        teach anything. Names the first example, the value, the pixel count and the cure, and how
        many more have faults.
    """
    files = len(source) if max_files is None else min(max_files, len(source))
    store = _store(source, info, files)
    if store is not None and store.exists():
        with contextlib.suppress(ValueError, KeyError):  # a damaged file is written anew
            kept = json.loads(store.read_text())
            counts = np.array(kept["counts"], np.int64)
            report = LabelReport(info.classes, counts, kept["ignored"], kept["files"], info.task)
            return _checked(report, info)
    counts, failed = _count_all(source, info, files, max_failed)
    report = LabelReport(
        info.classes,
        counts[: info.num_classes],
        int(counts[-1]),
        files - len(failed),
        info.task,
        failed,
    )
    if store is not None and not failed:
        _keep(store, report)
    return _checked(report, info)


def _count_all(
    source: Source, info: DatasetInfo, files: int, max_failed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Counts of all values, i64 [256 or more], and what is wrong with which examples."""
    picks = np.unique(np.linspace(0, len(source) - 1, files).astype(int)).tolist()
    counts = np.zeros(_width(info), np.int64)
    failed: list[str] = []

    def attempt(index: int) -> np.ndarray | str:
        try:
            return _count(source[index], info)
        except UserError as error:
            return str(error)

    looked = 0
    # Decoding lets go of the interpreter lock, so threads share the work.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(attempt, picks):
            looked += 1
            if isinstance(found, str):
                failed.append(found)
            else:
                counts += found
            if len(failed) > max_failed + _MANY:
                pool.shutdown(cancel_futures=True)
                break
    if len(failed) > max_failed:
        more = len(failed) - 1
        tail = f"; {more} more of the first {looked} examples have faults too." if more else "."
        raise UserError(failed[0].rstrip(".") + tail)
    return counts, tuple(failed)


def _checked(report: LabelReport, info: DatasetInfo) -> LabelReport:
    """Refuses labels that can each be right but teach nothing all together."""
    if not report.files or info.task != "segmentation":
        return report
    known = np.flatnonzero(report.counts).tolist()
    check(
        bool(known),
        f"all {report.ignored} pixels of the {report.files} annotations of {info.name} looked at "
        f"are ignored; correct the label map or the annotations.",
    )
    binary = known == [0] and report.ignored > 0 and info.label_map.get(IGNORE) == IGNORE
    check(
        not binary or info.num_classes < 2,
        f"the {report.files} annotations of {info.name} looked at hold only 0 and {IGNORE} "
        f"({report.ignored} pixels), and {IGNORE} means ignored; if it stands for a class, give "
        f'that class the raw id {IGNORE} in the class list ("NAME {IGNORE}").',
    )
    return report


def _width(info: DatasetInfo) -> int:
    return max(info.num_classes, IGNORE) + 1


def _count(example: Example, info: DatasetInfo) -> np.ndarray:
    """Counts each value of a label, i64 [256], or [k + 1] with more classes than that."""
    label = np.asarray(example[LABEL])
    if label.ndim:
        image, size = example[IMAGE].shape[:2], label.shape
        check(
            image == size,
            f'{info.name} "{example[ID]}": the image is {image[1]}x{image[0]} and its annotation '
            f"{size[1]}x{size[0]} pixels; they must be equal, replace the one that is wrong.",
        )
    counts = np.bincount(label.ravel(), minlength=_width(info))
    wrong = np.flatnonzero(counts[info.num_classes : -1]) + info.num_classes
    if wrong.size:
        raise UserError(
            f'{info.name} "{example[ID]}": label value {wrong[0]} ({counts[wrong[0]]} pixels) is '
            f"none of the {info.num_classes} classes 0..{info.num_classes - 1} nor {IGNORE}; "
            "correct the annotation or the label map."
        )
    return counts


def _store(source: Source, info: DatasetInfo, files: int) -> pathlib.Path | None:
    """The file that keeps the scan of just these examples with just this label map."""
    folder = getattr(source, "cache_dir", None)
    if folder is None:
        return None
    key = f"{source!r} {info.classes} {sorted(info.label_map.items())} {files}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return pathlib.Path(folder) / f"label_counts.{digest}.json"


def _keep(store: pathlib.Path, report: LabelReport) -> None:
    kept = {"counts": report.counts.tolist(), "ignored": report.ignored, "files": report.files}
    partial = store.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a read-only copy only costs the time of another scan
        store.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(kept))
        partial.replace(store)
