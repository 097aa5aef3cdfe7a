"""Frames of a video in and out, with OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from attnseg.core.errors import UserError, check

# Codecs that OpenCV's wheels can write, by file type; other types become the first one.
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
USUAL_RATE = 25.0  # frames a second where a file does not say


class Frames:
    """The frames of a video, turned upright.

    Attributes:
      rate: frames a second.
      count: frames as the file has it, which may be an estimate; 0 where it does not say.

    Raises:
      UserError: it cannot be opened.
    """

    def __init__(self, path: str | Path):
        check(Path(path).is_file(), f'there is no video "{path}".')
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        check(
            self._capture.isOpened(),
            f"{path} is no video that can be read; is it damaged, or of a codec that OpenCV lacks?",
        )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if np.isfinite(count) and 0 < count < 2**31 else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields u8 [h w 3] RGB.

        Raises:
          UserError: there is not one frame.
        """
        seen = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            seen += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        check(seen > 0, f"{self.path} holds no frame that can be read; is the file damaged?")

    def close(self) -> None:
        """Frees the file."""
        self._capture.release()


class VideoFile:
    """A video being written, which appears under its name only when it is complete.

    Args:
      path: of a type of `CODECS`.
      rate: frames a second.
      size: (h, w); an odd last row or column is left out, as codecs want even sides.

    Raises:
      UserError: it cannot be written.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]):
        self.path, self._size = path, (size[0] // 2 * 2, size[1] // 2 * 2)
        check(min(self._size) > 0, f"{size[1]}x{size[0]} is too small for a video.")
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter_fourcc(*CODECS[path.suffix])
        self._writer = cv2.VideoWriter(str(self._partial), codec, rate, self._size[::-1])
        if not self._writer.isOpened():
            raise UserError(f"cannot write {path}; is the folder writable and the disk not full?")

    def write(self, picture: np.ndarray) -> None:
        """Adds u8 [h w 3] RGB."""
        height, width = self._size
        self._writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))

    def close(self, complete: bool) -> None:
        """Ends the file; what is not complete is removed."""
        self._writer.release()
        if complete:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def video_type(path: Path) -> str:
    """The type of file that answers to the video `path` are written as."""
    kind = path.suffix.lower()
    return kind if kind in CODECS else next(iter(CODECS))
