"""The images and videos that a user means, and a name for the answers to each."""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from attnseg.core.errors import UserError, check
from attnseg.data import frame_count

# fmt: off
IMAGE_TYPES = frozenset([
    ".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
])
VIDEO_TYPES = frozenset([
    ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv",
])
# fmt: on
_WILD = "*?["


@dataclasses.dataclass(frozen=True)
class Item:
    """A file to predict.

    Attributes:
      path: where it is.
      name: of its answers, a path without ending; no two items share one, upper case or lower.
      video: whether it has frames.
    """

    path: Path
    name: str
    video: bool


def find_inputs(given: Sequence[str], output: str | Path) -> list[Item]:
    """The files that `given` names, in order.

    Args:
      given: files, folders (searched through, sub-folders too) and patterns with ``*``, ``?``,
        ``[...]`` and ``**``. In folders files of other types and hidden ones do not count.
      output: where answers will go; files in there are no input.

    Raises:
      UserError: something that is not there, no image or video at all, or an `output` that is the
        input itself or a file.
    """
    output = Path(output)
    check(not output.exists() or output.is_dir(), f"{output} is a file; --output is a folder.")
    found: dict[Path, str] = {}
    for text in given:
        for path, name in _files(str(text), output):
            found.setdefault(path, name)
    check(
        bool(found),
        f"no image or video in {', '.join(map(str, given))}; known types are "
        f"{' '.join(sorted(IMAGE_TYPES | VIDEO_TYPES))}.",
    )
    names = _unique(found.values())
    return [Item(p, n, _is_video(p)) for p, n in zip(found, names, strict=True)]


def _files(text: str, output: Path) -> Iterator[tuple[Path, str]]:
    """Files with their paths below what was given."""
    path = Path(text).expanduser()
    if path.is_dir():
        check(
            path.resolve() != output.resolve(),
            f"--output={output} is the input folder itself; choose another, answers would be "
            "taken for images the next time.",
        )
        yield from _walk(path, output)
    elif path.exists():
        yield path, path.name
    elif any(mark in text for mark in _WILD):
        pattern = os.path.expanduser(text)
        base = Path(*_before_wild(Path(pattern).parts))
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        files = [p for p in matches if p.is_file() and _counts(p) and not _inside(p, output)]
        check(bool(files), f'no image or video matches "{text}".')
        for file in files:
            yield file, file.relative_to(base).as_posix()
    else:
        raise UserError(f'there is no file or folder "{text}".')


def _before_wild(parts: Sequence[str]) -> list[str]:
    wild = [index for index, part in enumerate(parts) if any(mark in part for mark in _WILD)]
    return list(parts[: wild[0]])


def _walk(folder: Path, output: Path) -> Iterator[tuple[Path, str]]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if _counts(path) and not _inside(path, output):
                yield path, path.relative_to(folder).as_posix()


def _counts(path: Path) -> bool:
    known = path.suffix.lower() in IMAGE_TYPES | VIDEO_TYPES
    return known and not path.name.startswith(".")


def _inside(path: Path, output: Path) -> bool:
    return output.resolve() in path.resolve().parents


def _is_video(path: Path) -> bool:
    kind = path.suffix.lower()
    return kind in VIDEO_TYPES or (kind == ".gif" and frame_count(path) > 1)


def _unique(names: Iterable[str]) -> list[str]:
    """Names without their endings; those that would then meet keep them, or get a number."""
    names = list(names)
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    # File systems of some machines do not tell upper case from lower.
    count = collections.Counter(stem.lower() for stem in stems)
    chosen = [
        name if count[stem.lower()] > 1 else stem for name, stem in zip(names, stems, strict=True)
    ]
    taken = {name.lower() for name in chosen}
    used: set[str] = set()
    for index, name in enumerate(chosen):
        free, number = name, 2
        while free.lower() in used or (number > 2 and free.lower() in taken):
            free, number = f"{name}_{number}", number + 1
        used.add(free.lower())
        chosen[index] = free
    return chosen
