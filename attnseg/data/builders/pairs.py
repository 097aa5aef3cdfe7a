"""TFDS builder of images and annotations found on the user's disk, whatever their layout.

A `Layout` says where the files of a data set lie; `AttnsegPairs` copies them into ArrayRecord,
encoded as they are. The layouts are in `camvid` and `layouts`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from attnseg.core.errors import UserError
from attnseg.data.builders.features import segmentation_features


class Pair(NamedTuple):
    """An image, its annotation, and the name of the two."""

    image: pathlib.Path
    label: pathlib.Path
    id: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
      name: key of the data set in `DATASETS`.
      expected: the folders and files in ``data.root``, for messages.
      find: from ``data.root`` to the pairs of each split. What it misses it raises as `UserError`,
        worded as a clause: root and `expected` are put around it.
      read_label: from an annotation's path to an encoded image of one channel of raw ids; for
        data sets whose files are not that already.
    """

    name: str
    expected: str
    find: Callable[[pathlib.Path], dict[str, list[Pair]]]
    read_label: Callable[[pathlib.Path], bytes] = pathlib.Path.read_bytes


def list_pairs(layout: Layout, root: str) -> dict[str, list[Pair]]:
    """Lists the files of each split in `root`, in the order of their names.

    Raises:
      UserError: something is missing; names it and the layout that is expected.
    """
    folder = pathlib.Path(root).expanduser()
    try:
        if not folder.is_dir():
            raise UserError("this is not a folder")
        return layout.find(folder)
    except UserError as error:
        raise UserError(
            f'{layout.name} in data.root "{root}": {error}; expected is {layout.expected}.'
        ) from None


def files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Lists the files in `folder` that fit the glob `pattern`, in the order of their names.

    Raises:
      UserError: there are none.
    """
    if not folder.is_dir():
        raise UserError(f'the folder "{folder}" is missing')
    found = sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))
    if not found:
        raise UserError(f'"{folder}" holds no {pattern}')
    return found


def match(
    images: Iterable[pathlib.Path],
    label_of: Callable[[pathlib.Path], pathlib.Path],
    id_of: Callable[[pathlib.Path], str] = lambda image: image.stem,
) -> list[Pair]:
    """Pairs each image with its annotation.

    Raises:
      UserError: an image or an annotation does not exist.
    """
    pairs = [Pair(image, label_of(image), id_of(image)) for image in images]
    lacking = [pair for pair in pairs if not pair.label.is_file()]
    if lacking:
        more = f", and {len(lacking) - 1} more lack theirs" if len(lacking) > 1 else ""
        image, label, _ = lacking[0]
        raise UserError(f'image "{image}" has no annotation: "{label}" is missing{more}')
    absent = [pair for pair in pairs if not pair.image.is_file()]
    if absent:
        raise UserError(f'image "{absent[0].image}" is missing')
    return pairs


def png(ids: np.ndarray) -> bytes:
    """Encodes ids, u8 [h w], as a grey PNG."""
    return cv2.imencode(".png", ids)[1].tobytes()


def pairs_config(layout: Layout, root: str) -> PairsConfig:
    """Returns the builder config for the files of `layout` in `root`.

    Its name holds a digest of the listing (names, sizes, times of change), so that another or a
    changed folder is prepared anew.

    Raises:
      UserError: as `list_pairs`.
    """
    folder = pathlib.Path(root).expanduser()
    pairs = list_pairs(layout, root)
    digest = hashlib.sha256()
    for split in pairs:
        for path in (path for pair in pairs[split] for path in pair[:2]):
            stat = path.stat()
            relative = path.relative_to(folder).as_posix()
            digest.update(f"{split} {relative} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return PairsConfig(
        name=f"{layout.name}-{digest.hexdigest()[:12]}",
        root=folder,
        pairs=pairs,
        read_label=layout.read_label,
    )


@dataclasses.dataclass
class PairsConfig(tfds.core.BuilderConfig):
    """Which files `AttnsegPairs` reads; made by `pairs_config`."""

    root: pathlib.Path = pathlib.Path()
    pairs: dict[str, list[Pair]] = dataclasses.field(default_factory=dict, repr=False)
    read_label: Callable[[pathlib.Path], bytes] = dataclasses.field(
        default=pathlib.Path.read_bytes, repr=False
    )


class AttnsegPairs(tfds.core.GeneratorBasedBuilder):
    """Copies the files of a `PairsConfig` into ArrayRecord."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when a `read_label` changes
    RELEASE_NOTES = {"1.0.0": "Encoded images and annotations."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=segmentation_features(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # the user has the files
        return {split: self._generate_examples(split) for split in self.builder_config.pairs}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        return _examples(self.builder_config, split)


def _examples(config: PairsConfig, split: str) -> Iterator[tuple[int, dict]]:
    for index, (image, label, name) in enumerate(config.pairs[split]):
        try:
            picture, annotation = image.read_bytes(), config.read_label(label)
        except UserError as error:
            raise UserError(f'"{label}": {error}') from None
        except OSError as error:
            raise UserError(f'"{error.filename}" cannot be read ({error.strerror}).') from error
        yield (
            index,
            {
                "image": picture,
                "label": annotation,
                "id": name,
                "file": label.relative_to(config.root).as_posix(),
            },
        )
