"""A source that keeps what it decoded on disk: a crop of a large PNG then reads its own rows only.

An example is the same whether it comes from the files or from the store; only the time differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
from typing import Any

import numpy as np
from absl import logging

from attnseg.core.errors import UserError, check
from attnseg.core.types import ID, IMAGE, LABEL, SIZE, Example
from attnseg.data.info import DatasetInfo
from attnseg.data.pixel_store import PixelStore
from attnseg.data.sources import Source

FOLDER = "decoded"
GB = 10**9


@dataclasses.dataclass(frozen=True)
class _Found:
    """An example from the store, in the place of what a source reads."""

    example: Example


class Decoded:
    """A source of segmentation data, with a store of decoded examples before it.

    The store is named after the files' names, sizes and times of change and the label map, so
    that changed data have one of their own. It grows to the bound as examples are decoded first;
    those that find no room are decoded each time, as without it.
    """

    def __init__(self, source: Source, info: DatasetInfo, folder: str, limit_gb: float):
        """
        Args:
          source: the examples.
          info: their classes and label map.
          folder: where stores lie, in ``folder/decoded``.
          limit_gb: size that the store of this source may reach, in 10^9 bytes.

        Raises:
          UserError: the folder cannot be written, or the disk lacks room for what is missing.
        """
        self.cache_dir, self.stamp = source.cache_dir, source.stamp
        self._source, self._limit = source, int(limit_gb * GB)
        key = f"{source!r} {source.stamp} {info.classes} {sorted(info.label_map.items())}"
        name = f"{info.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self._path = pathlib.Path(folder).expanduser() / FOLDER / name
        self._broken = False
        self._opened: tuple[int, PixelStore] | None = None
        try:
            self._store()
        except OSError as error:
            raise UserError(
                f'the decoded examples of {info.name} cannot be kept in "{self._path.parent}" '
                f"({error.strerror}); set data.prepared to a folder that you may write to, or "
                "data.cache=none."
            ) from error
        self._check_room(info)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """As the source's; image and label may be read-only."""
        return self.decode(index, self.read(index))

    def read(self, index: int) -> Any:
        """What is stored of example `index`; see `attnseg.data.sources.Source`."""
        entry = self._store().get(int(index))
        if entry is None:
            return self._source.read(index)
        image, label, name = entry
        size = np.array(image.shape[:2], np.int32)
        return _Found({IMAGE: image, LABEL: label, ID: name, SIZE: size})

    def decode(self, index: int, stored: Any) -> Example:
        """The example in what `read` returned, which is kept if it was not yet."""
        if isinstance(stored, _Found):
            return stored.example
        example = self._source.decode(index, stored)
        if not self._broken:
            self._keep(int(index), example)
        return example

    def describe(self) -> str:
        """What the store holds, in a line."""
        held, used = self._store().size()
        return (
            f"decoded examples in {self._path}.pixels: {held} of {len(self)}, {used / GB:.2f} of "
            f"at most {self._limit / GB:g} GB"
        )

    def __repr__(self) -> str:
        return repr(self._source)

    def __getstate__(self) -> dict:
        return vars(self) | {"_opened": None}

    def _store(self) -> PixelStore:
        """The store, opened in each process anew: processes must not share a lock."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), PixelStore(self._path, len(self._source), self._limit)
        return self._opened[1]

    def _keep(self, index: int, example: Example) -> None:
        try:
            self._store().put(index, example[IMAGE], example[LABEL], example[ID])
        except OSError as error:  # no reason to stop: the files are still there
            self._broken = True
            logging.warning(
                'No more decoded examples are kept in "%s" (%s).', self._path, error.strerror
            )

    def _check_room(self, info: DatasetInfo) -> None:
        """Refuses a disk that is too full for the store, by the size of its first example."""
        held, used = self._store().size()
        missing = len(self) - held
        if not missing or used >= self._limit:
            return
        try:
            first = self._source[0]
        except UserError:  # whether it may be left out is decided elsewhere
            return
        needed = min(missing * (first[IMAGE].nbytes + first[LABEL].nbytes), self._limit - used)
        free = shutil.disk_usage(self._path.parent).free
        check(
            needed <= free,
            f"keeping the decoded examples of {info.name} takes about {needed / GB:.1f} GB more in "
            f'"{self._path.parent}", where {free / GB:.1f} GB are free; make room, lower '
            "data.cache_gb, or set data.cache=none.",
        )
