"""A folder of one's own as a data set, read file by file; nothing is prepared."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.types import ID, IMAGE, LABEL, SIZE, Example
from attnseg.data.class_list import ClassList, read_class_list, read_names
from attnseg.data.decode import decode_image, decode_mask
from attnseg.data.folder_files import (
    IMAGES,
    LABELS,
    LAYOUT,
    Record,
    class_folders,
    list_classified,
    list_pairs,
)
from attnseg.data.info import DatasetInfo, map_labels
from attnseg.data.masks import colours_to_ids

NAME = "folder"  # as ``data.name``


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where a folder's files are and how they are named.

    With ``images/`` or ``labels/`` in it, it is segmentation data; else its sub-folders are the
    classes of classification data.

    Attributes:
      root: the folder.
      classes: class list; None for ``ROOT/classes.txt`` or ``ROOT/classes.json``. Of
        classification data it only gives the classes' order, which is alphabetical without one.
      ratios, image_suffix, label_suffix: see `attnseg.data.folder_files.list_pairs`.

    Raises:
      UserError: no `root` was given, or it is no folder.
    """

    root: str | None
    classes: str | None = None
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    image_suffix: str = ""
    label_suffix: str = ""

    def __post_init__(self):
        check(
            bool(self.root),
            f"no folder was named: pass --config.data.root=FOLDER, where FOLDER holds {LAYOUT}.",
        )
        check(self._root.is_dir(), f'"{self.root}" is not a folder; data.root must hold {LAYOUT}.')

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.root).expanduser()

    @property
    def _has_masks(self) -> bool:
        return (self._root / IMAGES).is_dir() or (self._root / LABELS).is_dir()

    def _class_file(self) -> pathlib.Path:
        if self.classes:
            return pathlib.Path(self.classes).expanduser()
        named = self._root / "classes.json"
        return named if named.is_file() else self._root / "classes.txt"

    def info(self) -> DatasetInfo:
        """Classes, palette and label map.

        Raises:
          UserError: the class list is missing or wrong, or names other classes than the folders.
        """
        if self._has_masks:
            return read_class_list(self._class_file(), NAME).info
        classes = class_folders(self._root)
        if self._class_file().is_file() or self.classes:
            listed = read_names(self._class_file())
            odd = sorted(set(listed) ^ set(classes))
            check(
                not odd,
                f'"{self._class_file()}" and the folders of "{self.root}" disagree on the class '
                f'"{odd[0] if odd else ""}" ({len(odd)} in all); make them equal.',
            )
            classes = listed
        return DatasetInfo(
            name=NAME,
            task="classification",
            classes=classes,
            palette=(),
            label_map={i: i for i in range(len(classes))},
            citation="",
            licence="",
        )

    def open(self, split: str, cache_dir: str | None = None) -> FolderSource:
        """The examples of "train", "val" or "test"; facts about them are kept in `cache_dir`.

        Raises:
          UserError: see `attnseg.data.folder_files`.
        """
        if self._has_masks:
            classes = read_class_list(self._class_file(), NAME)
            records = list_pairs(
                self._root,
                split,
                ratios=self.ratios,
                image_suffix=self.image_suffix,
                label_suffix=self.label_suffix,
            )
        else:
            classes = ClassList(self.info(), (), ())
            records = list_classified(
                self._root,
                split,
                classes.info.classes,
                ratios=self.ratios,
                image_suffix=self.image_suffix,
            )
        return FolderSource(records, classes, split, cache_dir)


class FolderSource:
    """Random access to the examples of a folder; see `attnseg.data.sources.Source`.

    Images become RGB u8 however they are stored: grey is repeated, 16 bits lose their lower
    eight, alpha is dropped (not blended), CMYK is converted without colour profile, and an
    orientation tag is not obeyed, as annotations are drawn on the stored pixels. Annotations are
    indices (grey or palette), or RGB in the colours of the class list; alpha is dropped.
    """

    def __init__(
        self,
        records: list[Record],
        classes: ClassList,
        split: str,
        cache_dir: str | None = None,
    ):
        """
        Args:
          records: the examples, in order.
          classes: gives the label map and the colours of annotations.
          split: for the name of this source.
          cache_dir: where facts about the data may be kept, if anywhere.
        """
        self.cache_dir = cache_dir
        self._records = records
        self._classes = classes
        self._split = split

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Returns example `index`: image u8 [h w 3], label, id str, size i32 [2].

        The label is u8 [h w] of train ids, or of classification data i32 [].

        Raises:
          UserError: a file cannot be read, holds values that are no class, or the annotation is
            of another size than its image; names the file.
        """
        return self.decode(index, self.read(index))

    def read(self, index: int) -> tuple[bytes, bytes | None]:
        """The files of example `index`: image and, of segmentation data, annotation.

        Raises:
          UserError: a file cannot be read.
        """
        record = self._records[int(index)]
        masked = isinstance(record.label, str)
        return _read(record.image), _read(record.label) if masked else None

    def decode(self, index: int, files: tuple[bytes, bytes | None]) -> Example:
        """The example in the files that `read` returned; raises as `__getitem__` does."""
        record = self._records[int(index)]
        image = _about(record.image, decode_image, files[0])
        if isinstance(record.label, str):
            label = _about(record.label, self._annotation, files[1])
            _check_sizes(record, image.shape[:2], label.shape)
        else:
            label = np.asarray(record.label, np.int32)
        return {
            IMAGE: image,
            LABEL: label,
            ID: record.id,
            SIZE: np.array(image.shape[:2], np.int32),
        }

    def _annotation(self, data: bytes) -> np.ndarray:
        raw = decode_mask(data)
        if raw.ndim == 3:
            raw = self._from_colours(raw)
        return map_labels(raw, self._classes.info)

    def _from_colours(self, mask: np.ndarray) -> np.ndarray:
        grey = bool((mask == mask[..., :1]).all())
        check(
            bool(self._classes.colours),
            "the annotation is in RGB, but the class list gives no colours; "
            + (
                "its three channels are equal, so save one of them as 8-bit grey."
                if grey
                else "write NAME #rrggbb there for each class, or save class ids as 8-bit grey."
            ),
        )
        index = colours_to_ids(mask, self._classes.colours)
        return np.asarray(self._classes.colour_ids, np.int32)[index]

    @property
    def stamp(self) -> str:
        """Changes when the files do."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        """Of the files' names, sizes and times of change: those of the same data are the same."""
        digest = hashlib.sha256()
        for record in self._records:
            digest.update(f"{record.id}\0{_stat(record.image)}\0".encode())
            label = record.label
            digest.update(f"{_stat(label) if isinstance(label, str) else label}\n".encode())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        return f"FolderSource({self._split}, {len(self)}, {self._digest})"


def _stat(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _read(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f'"{path}" cannot be read ({error.strerror}); restore it or take it out of the folder.'
        ) from error


def _about(path: str, function, data: bytes) -> np.ndarray:
    """Calls ``function(data)``; its errors name the file."""
    try:
        return function(data)
    except UserError as error:
        raise UserError(f'"{path}": {error}') from None


def _check_sizes(record: Record, image: tuple[int, int], label: tuple[int, int]) -> None:
    turned = image != label and image == label[::-1]
    check(
        image == label,
        f'"{record.label}": the annotation is {label[1]}x{label[0]} and its image '
        f"{image[1]}x{image[0]} pixels (width x height); "
        + (
            "the image seems to be turned by its orientation tag, so save it upright."
            if turned
            else "they must be equal, so replace the one that is wrong."
        ),
    )
