"""Examples of a prepared TFDS data set, read from ArrayRecord without TensorFlow."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from attnseg.core.errors import UserError
from attnseg.core.types import ID, IMAGE, LABEL, SIZE, Example
from attnseg.data.decode import decode_image, decode_label
from attnseg.data.info import DatasetInfo, map_class, map_labels


class TfdsSource:
    """Random access to one split of a prepared copy; see `attnseg.data.sources.Source`.

    Opens its files on first use, in each process anew, so that it can be pickled for workers.
    """

    def __init__(self, folder: str, split: str, info: DatasetInfo, *, label: str = LABEL):
        """
        Args:
          folder: the prepared copy, ``DATA_DIR/NAME/CONFIG/VERSION``.
          split: one of the splits in it.
          info: gives the task and the label map.
          label: name of the feature that is the label.

        Raises:
          UserError: the copy has no such split; the message lists those it has.
        """
        splits = tfds.builder_from_directory(folder).info.splits
        if split not in splits:
            raise UserError(f'{info.name} has no split "{split}"; it has {", ".join(splits)}.')
        self.cache_dir = folder
        self._split = split
        self._info = info
        self._label = label
        self._length = splits[split].num_examples

    @functools.cached_property
    def _records(self):
        images = (IMAGE,) if self._info.task == "classification" else (IMAGE, self._label)
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        builder = tfds.builder_from_directory(self.cache_dir)
        return builder.as_data_source(self._split, decoders=decoders)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """Returns example `index`: image u8 [h w 3], label, id, size.

        The label is u8 [h w] of train ids, or one i32 train id in classification.

        Raises:
          UserError: the files are damaged or hold ids outside the label map; names the file.
        """
        return self.decode(index, self.read(index))

    def read(self, index: int) -> dict:
        """The stored record of example `index`, its images still encoded."""
        return self._records[int(index)]

    def decode(self, index: int, record: dict) -> Example:
        """The example in a record that `read` returned; raises as `__getitem__` does."""
        name = _first(record, ID, "file_name", default=f"{self._split}{index}")
        try:
            image = decode_image(record[IMAGE])
            label = self._read_label(record[self._label])
        except UserError as error:
            file = _first(record, "file", default=name)
            raise UserError(f'{self._info.name} "{file}": {error}') from None
        return {
            IMAGE: image,
            LABEL: label,
            ID: name,
            SIZE: np.array(image.shape[:2], np.int32),
        }

    @property
    def stamp(self) -> str:
        """Changes when the files do: names, sizes and times of change of the copy's records."""
        files = sorted(pathlib.Path(self.cache_dir).glob("*array_record*"))
        stats = [(file.name, file.stat()) for file in files]
        return " ".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)

    def _read_label(self, stored: bytes | np.integer) -> np.ndarray:
        if self._info.task == "classification":
            return map_class(stored, self._info)
        return map_labels(decode_label(stored), self._info)

    def __repr__(self) -> str:
        # Part of a stored data position: the same for the same data wherever they lie.
        config, version = pathlib.Path(self.cache_dir).parts[-2:]
        return f"TfdsSource({self._info.name}/{config}/{version}, {self._split}, {self._length})"

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_records"}


def _first(record: dict, *names: str, default: str) -> str:
    """The first of the texts `names` that the record has."""
    return next((record[name].decode() for name in names if name in record), default)
