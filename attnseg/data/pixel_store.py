"""A file of decoded pixels that several processes fill and read at once, up to a bound.

``NAME.pixels`` holds image, label and name of one example after another; ``NAME.index`` says where
each begins. An entry appears in the index only once its pixels are on the disk, so what is found
there is whole, whatever was interrupted. Nothing is ever taken out: delete the two files for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pathlib
import threading

import numpy as np

_FORMAT = 1  # raise it when the decoding or the layout changes
# The index is i64 [1 + examples, 6]: first format, number of examples, and the first byte of the
# pixels that nobody has claimed; then a row for each example.
_END = 2
_ROW = ("start", "height", "width", "label_height", "label_width", "name")  # start: 0 is "absent"
_FIRST = 1  # where the first example begins, so that 0 can mean absence

Entry = tuple[np.ndarray, np.ndarray, str]


class PixelStore:
    """Image, label and name of examples by number. For one process, and all threads of it."""

    def __init__(self, path: pathlib.Path, examples: int, limit: int):
        """Opens the store, made anew where there is none or what is there does not fit.

        Args:
          path: of the files, without their endings.
          examples: how many there are at most.
          limit: bytes of pixels that the file may hold.

        Raises:
          OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._limit = path, limit
        self._threads = threading.Lock()  # a lock on a file does not part threads
        with open(f"{path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._open(examples):
                for ending in (".index", ".pixels"):  # those who have them open keep them
                    pathlib.Path(f"{path}{ending}").unlink(missing_ok=True)
                self._create(examples)

    def get(self, number: int) -> Entry | None:
        """Image u8 [h w 3], label u8 [h w] and name; None where they are not there.

        The arrays are maps of the file that cannot be written to: only what is looked at is read.
        """
        with self._locked(fcntl.LOCK_SH):
            start, height, width, rows, cols, name = self._index[1 + number].tolist()
        if not start:
            return None
        image, label = height * width * 3, rows * cols
        before = start % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(
            self._pixels, before + image + label + name, prot=mmap.PROT_READ, offset=start - before
        )
        flat = np.frombuffer(mapped, np.uint8, offset=before)
        return (
            flat[:image].reshape(height, width, 3),
            flat[image : image + label].reshape(rows, cols),
            flat[image + label :].tobytes().decode(),
        )

    def put(self, number: int, image: np.ndarray, label: np.ndarray, name: str) -> bool:
        """Adds an example unless it is there or there is no room; returns whether there was room.

        Raises:
          OSError: the disk is full or fails.
        """
        text = name.encode()
        size = image.nbytes + label.nbytes + len(text)
        with self._locked(fcntl.LOCK_EX):
            if self._index[1 + number, 0]:
                return True
            start = int(self._index[0, _END])
            if start + size > self._limit:
                return False
            self._index[0, _END] = start + size
        _write(self._pixels, image.tobytes() + label.tobytes() + text, start)
        os.fsync(self._pixels)
        with self._locked(fcntl.LOCK_EX):
            self._index[1 + number] = (start, *image.shape[:2], *label.shape, len(text))
        return True

    def size(self) -> tuple[int, int]:
        """The number of examples in it, and of bytes."""
        with self._locked(fcntl.LOCK_SH):
            held = np.count_nonzero(self._index[1:, 0])
            return int(held), int(self._index[0, _END]) - _FIRST

    def close(self) -> None:
        """Lets go of the files; arrays handed out stay valid."""
        del self._index
        os.close(self._lock)
        os.close(self._pixels)

    def _open(self, examples: int) -> bool:
        """Opens what is there; False if it does not fit."""
        index, pixels = (pathlib.Path(f"{self.path}{end}") for end in (".index", ".pixels"))
        if not (index.is_file() and pixels.is_file()):
            return False
        shape = (1 + examples, len(_ROW))
        if index.stat().st_size != shape[0] * shape[1] * 8:
            return False
        rows = np.memmap(index, np.int64, "r+", shape=shape)
        start, height, width, label_height, label_width, name = rows[1:].T
        ends = start + height * width * 3 + label_height * label_width + name
        fits = tuple(rows[0, :2]) == (_FORMAT, examples)
        if not fits or ends.max(initial=0) > pixels.stat().st_size:
            return False
        self._index = rows
        self._lock = os.open(index, os.O_RDWR)
        self._pixels = os.open(pixels, os.O_RDWR)
        return True

    def _create(self, examples: int) -> None:
        rows = np.zeros((1 + examples, len(_ROW)), np.int64)
        rows[0, :3] = _FORMAT, examples, _FIRST
        pathlib.Path(f"{self.path}.pixels").write_bytes(b"\0" * _FIRST)
        pathlib.Path(f"{self.path}.index").write_bytes(rows.tobytes())
        self._open(examples)

    @contextlib.contextmanager
    def _locked(self, kind: int):
        with self._threads:
            fcntl.flock(self._lock, kind)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)


def _write(file: int, data: bytes, start: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, start)
        start, left = start + written, left[written:]
