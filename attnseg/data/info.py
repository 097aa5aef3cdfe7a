"""What a data set is: its classes, colours, label map and licence. The table is in `benchmarks`."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.types import IGNORE, IMAGENET, Normalisation

TASKS = ("segmentation", "classification")
_UNMAPPED = -1


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Everything about a data set that does not depend on where its files lie.

    Attributes:
      name: key in `attnseg.data.DATASETS`.
      task: "segmentation" or "classification".
      classes: name of each train id 0..k-1.
      palette: RGB colour (0..255) of each train id, of segmentation data.
      label_map: raw id in the files -> train id, or `IGNORE`. A raw id that is absent is an error.
      normalisation: mean and standard deviation that the images are normalised with.
      citation, licence: as the data set's authors state them.

    Raises:
      UserError: the parts contradict each other.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: dict[int, int]
    citation: str
    licence: str
    normalisation: Normalisation = IMAGENET

    def __post_init__(self):
        k = len(self.classes)
        check(
            self.task in TASKS, f'{self.name}: task "{self.task}" is not one of {", ".join(TASKS)}.'
        )
        check(k > 0, f"{self.name}: no classes.")
        if self.task == "segmentation":
            check(k <= IGNORE, f"{self.name}: {k} classes; train ids must lie in 0..{IGNORE - 1}.")
            colours = len(self.palette)
            check(colours == k, f"{self.name}: {colours} colours for {k} classes.")
        wrong = {
            r: t for r, t in self.label_map.items() if r < 0 or not (0 <= t < k or t == IGNORE)
        }
        check(
            not wrong,
            f"{self.name}: label_map entries {wrong} lie outside 0..{k - 1} and {IGNORE}.",
        )

    @property
    def num_classes(self) -> int:
        """Number of train ids, without `IGNORE`."""
        return len(self.classes)

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """i16 [256 or more], the train id of each raw id, -1 where there is none."""
        # 256 entries at least, so that u8 labels index the table without a range check.
        table = np.full(max(256, max(self.label_map) + 1), _UNMAPPED, np.int16)
        table[list(self.label_map)] = list(self.label_map.values())
        return table

    def describe_labels(self) -> str:
        """The label map in one line."""
        if all(raw == train for raw, train in self.label_map.items()):
            return f"label ids in the files are the train ids ({IGNORE}: ignored)"
        raw_ids: dict[int, list[int]] = {}
        for raw, train in sorted(self.label_map.items()):
            raw_ids.setdefault(train, []).append(raw)
        pairs = "; ".join(f"{_ranges(raw)} -> {train}" for train, raw in raw_ids.items())
        return f"raw id -> train id ({IGNORE}: ignored): {pairs}"


def colour_map(k: int) -> tuple[tuple[int, int, int], ...]:
    """Returns `k` well-separated RGB colours (0..255): the palette of PASCAL VOC.

    The bits of the index are dealt out to r, g, b in turn, highest bit first.
    """
    colours = []
    for index in range(k):
        rgb = [0, 0, 0]
        for bit in range(24):
            rgb[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colours.append(tuple(rgb))
    return tuple(colours)


def map_labels(raw: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Turns raw ids into train ids; the only place where that happens.

    Args:
      raw: integer array of any shape, values as in the annotation files.
      info: the data set whose `label_map` applies.

    Returns:
      u8 array of the same shape: 0..k-1 or `IGNORE`.

    Raises:
      UserError: `raw` is not of integers, or holds ids absent from ``info.label_map`` (each is
        named with its number of pixels).
    """
    raw = np.asarray(raw)
    check(np.issubdtype(raw.dtype, np.integer), f"labels must be integers, these are {raw.dtype}.")
    table = info.train_ids
    if raw.dtype == np.uint8:
        mapped = table[raw]
    else:
        inside = (raw >= 0) & (raw < len(table))
        mapped = np.where(inside, table[np.where(inside, raw, 0)], _UNMAPPED)
    if mapped.min(initial=0) == _UNMAPPED:
        _refuse(raw[mapped == _UNMAPPED], info)
    return mapped.astype(np.uint8)


def map_class(raw: int, info: DatasetInfo) -> np.ndarray:
    """Turns the raw id of a whole image into its train id, i32 [].

    Raises:
      UserError: `raw` is absent from ``info.label_map``.
    """
    check(
        int(raw) in info.label_map,
        f"label {raw} is not in the label map of {info.name}, which knows "
        f"{_ranges(sorted(info.label_map))}.",
    )
    return np.array(info.label_map[int(raw)], np.int32)


def _refuse(values: np.ndarray, info: DatasetInfo) -> None:
    found = zip(*np.unique(values, return_counts=True), strict=True)
    listed = ", ".join(f"{value} ({count} pixels)" for value, count in list(found)[:8])
    raise UserError(
        f"label value {listed} is not in the label map of {info.name}, which knows "
        f"{_ranges(sorted(info.label_map))}; correct the annotation, or map the value to "
        f"{IGNORE} to ignore it."
    )


def _ranges(values: list[int]) -> str:
    """Writes sorted integers as "0-11, 255"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
