"""From a data set's name to its examples; prepares a copy on first use."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
from typing import Protocol

import tensorflow_datasets as tfds
from absl import logging

from attnseg.core.errors import UserError, check, lookup
from attnseg.core.types import Example
from attnseg.data.benchmarks import DATASETS
from attnseg.data.builders.layouts import LAYOUTS
from attnseg.data.builders.pairs import AttnsegPairs, pairs_config
from attnseg.data.builders.shapes import Shapes, shapes_config
from attnseg.data.stock import STOCK, stock_folder
from attnseg.data.tfds_source import TfdsSource


class Source(Protocol):
    """Examples by index. Can be pickled, and ``repr`` is the same in every process and run.

    The sources of data sets also part ``source[index]`` into two steps, ``source.read(index)``,
    which gives what is stored, and ``source.decode(index, stored)``; and they have a text
    ``source.stamp``, which changes when the files do.
    """

    cache_dir: str | None  # where facts about the data may be kept, if anywhere

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Returns image u8 [h w 3] RGB, label (train ids, u8 [h w] or one i32), id, size."""


def open_source(
    name: str, split: str, *, root: str | None = None, prepared_dir: str | None = None
) -> Source:
    """Opens a split of a data set, preparing the data set first where that has not been done.

    Args:
      name: key of `DATASETS`.
      split: "train", "val" or "test".
      root: folder with the user's files, for data sets that are not embedded.
      prepared_dir: where prepared copies lie; by default $TFDS_DATA_DIR or
        ~/tensorflow_datasets.

    Raises:
      UserError: unknown name or split, `root` missing or not laid out as expected, TensorFlow
        missing where it is needed, or a `prepared_dir` that cannot be written.
    """
    info = lookup(DATASETS, name, "data set")
    folder = prepared_folder(prepared_dir)
    if name in STOCK:
        stock = STOCK[name]
        listed = ", ".join(stock.splits)
        check(split in stock.splits, f'{name} has no split "{split}"; it has {listed}.')
        copy = _quietly(stock_folder, name, folder, root)
        return TfdsSource(copy, stock.splits[split], info, label=stock.label)
    builder = _BUILDERS[name](root, folder)
    _prepare(builder, name)
    return TfdsSource(str(builder.data_dir), split, info)


def prepared_folder(chosen: str | None) -> str:
    """Where prepared copies lie: `chosen`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or str(pathlib.Path.home() / "tensorflow_datasets")
    return chosen or default


def _shapes(root: str | None, data_dir: str) -> Shapes:
    del root  # drawn, not read
    return _quietly(Shapes, data_dir=data_dir, config=shapes_config())


def _pairs(name: str, root: str | None, data_dir: str) -> AttnsegPairs:
    layout = LAYOUTS[name]
    check(
        bool(root),
        f"{name} is read from a folder of yours: pass --config.data.root=FOLDER, "
        f"where FOLDER holds {layout.expected}.",
    )
    return _quietly(AttnsegPairs, data_dir=data_dir, config=pairs_config(layout, root))


_BUILDERS = {"shapes": _shapes} | {name: functools.partial(_pairs, name) for name in LAYOUTS}


def _prepare(builder: tfds.core.DatasetBuilder, name: str) -> None:
    """Writes the copy unless it is there.

    TFDS writes into a folder of another name and renames it when all is written, so a copy that
    exists is whole.
    """
    folder = pathlib.Path(builder.data_dir)
    if folder.exists():
        return
    logging.info("Preparing %s in %s (once).", name, folder)
    try:
        _quietly(builder.download_and_prepare, file_format="array_record")
    except OSError as error:
        # Another process may have finished the same copy a moment before.
        if not folder.exists():
            raise UserError(
                f'the copy of {name} cannot be written to "{folder}" ({error}); set '
                "TFDS_DATA_DIR to a folder with room that you may write to."
            ) from error


def _quietly(function, *args, **kwargs):
    """Calls `function` without the notes of TFDS on downloads that do not take place."""
    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*args, **kwargs)
    finally:
        logging.set_verbosity(verbosity)
