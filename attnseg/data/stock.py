"""Data sets that TFDS has itself: finds the copy on disk, or has TFDS prepare it.

Preparing needs TensorFlow (`pip install 'attnseg[prepare]'`), once; reading the ArrayRecord files
does not.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib

import tensorflow_datasets as tfds

from attnseg.core.errors import check
from attnseg.core.types import LABEL

ARRAY_RECORD = "array_record"


@dataclasses.dataclass(frozen=True)
class Stock:
    """What differs between TFDS's data sets and ours.

    Attributes:
      splits: our name of a split -> TFDS's.
      label: the feature that is the label.
      manual: what `data.root` has to hold where TFDS cannot download; "" where it can.
      folders: class folders can take its place.
    """

    splits: dict[str, str]
    label: str = LABEL
    manual: str = ""
    folders: bool = False


_FOLDERS = (
    "; its images in class folders do without: --config.data.name=folder "
    "--config.data.root=FOLDER (docs/data.md)"
)

STOCK: dict[str, Stock] = {
    "cifar10": Stock({"train": "train", "val": "test", "test": "test"}, folders=True),
    "imagenet2012": Stock(
        {"train": "train", "val": "validation"},
        manual="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        folders=True,
    ),
    "oxford_iiit_pet": Stock(
        {"train": "train", "val": "test", "test": "test"}, label="segmentation_mask"
    ),
}


def stock_folder(name: str, data_dir: str, root: str | None = None) -> str:
    """Returns the folder of a copy in ArrayRecord, prepared first where there is none.

    Args:
      name: key of `STOCK`, also TFDS's name.
      data_dir: where prepared copies lie.
      root: folder with the original archives, for data sets that TFDS cannot download.

    Raises:
      UserError: there is no copy, and TensorFlow or the archives to make one are missing.
    """
    folder = pathlib.Path(data_dir).expanduser() / name
    versions = sorted(folder.glob("*/dataset_info.json"), key=_version)
    for path in reversed(versions):
        if tfds.builder_from_directory(str(path.parent)).info.file_format.value == ARRAY_RECORD:
            return str(path.parent)
    check(
        not versions,
        f'the copy of {name} in "{folder}" is not in the ArrayRecord format, and reading it would '
        "need TensorFlow; move it away and start again, or put an ArrayRecord copy in its place.",
    )
    check(
        importlib.util.find_spec("tensorflow") is not None,
        f'{name} is not prepared in "{folder}", and preparing it needs TensorFlow, once: '
        "pip install 'attnseg[prepare]', or copy an ArrayRecord version of it there"
        + (_FOLDERS if STOCK[name].folders else "")
        + ".",
    )
    manual = STOCK[name].manual
    check(
        not manual or bool(root),
        f"{name} is prepared from archives of yours: pass --config.data.root=FOLDER, where FOLDER "
        f"holds {manual}.",
    )
    builder = tfds.builder(name, data_dir=data_dir, file_format=ARRAY_RECORD)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=root),
        file_format=ARRAY_RECORD,
    )
    return str(builder.data_dir)


def _version(path: pathlib.Path) -> list[int]:
    """Sorts 10.0.0 behind 9.0.0."""
    return [int(part) if part.isdigit() else -1 for part in path.parent.name.split(".")]
