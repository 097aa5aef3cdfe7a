"""The files of a folder of one's own: which image goes with which label, and in which split."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Collection, Iterable

from attnseg.core.errors import UserError, check

SPLITS = ("train", "val", "test")
IMAGES, LABELS = "images", "labels"
LAYOUT = (
    "images/ and labels/ with the same file names and a class list classes.txt (segmentation), or "
    "train/CLASS/ and val/CLASS/, or CLASS/ alone (classification)"
)
IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABEL_TYPES = (".png", ".bmp", ".tif", ".tiff")
_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
      id: path of the image within its folder, without its suffix.
      image: path of the image.
      label: path of the annotation; or the class, a train id.
    """

    id: str
    image: str
    label: str | int


def list_pairs(
    root: pathlib.Path,
    split: str,
    *,
    ratios: tuple[float, float, float],
    image_suffix: str = "",
    label_suffix: str = "",
) -> list[Record]:
    """Images of one split with their annotations, sorted by id.

    A split is what ``ROOT/SPLIT.txt`` lists, one id a line, if there are such files; else what
    lies in ``images/SPLIT`` if there is ``images/train``; else a share of all images.

    Args:
      root: holds ``images/`` and ``labels/``, nested alike; links to folders within are not
        followed, and files whose names start with a dot do not count.
      split: "train", "val" or "test".
      ratios: shares of train, val and test. Each id falls on its side by a hash of its own, so
        that adding files moves no other.
      image_suffix, label_suffix: endings that are cut off to get at the id, with or without file
        type, e.g. "_leftImg8bit.png" and "_gtFine_labelIds.png"; "" for the file type alone.

    Raises:
      UserError: folders, split files or labels are missing, or names are ambiguous.
    """
    images = _by_id(root / IMAGES, image_suffix, IMAGE_TYPES, "image")
    labels = _by_id(root / LABELS, label_suffix, LABEL_TYPES + _LOSSY, "annotation")
    chosen = _choose(root, images, split, ratios)
    bare = [i for i in chosen if i not in labels]
    if bare:
        suffix = label_suffix or ".png"
        others = f"; labels/ has e.g. {min(labels)!r}" if labels else ""
        raise UserError(
            f'the image "{images[bare[0]]}" has no annotation "{root / LABELS / bare[0]}{suffix}" '
            f"({len(bare)} of {len(chosen)} images have none{others}); add it, or set "
            "data.label_suffix and data.image_suffix to what the names end with."
        )
    records = [Record(i, images[i], labels[i]) for i in chosen]
    lossy = [r.label for r in records if r.label.lower().endswith(_LOSSY)]
    check(
        not lossy,
        f'the annotation "{lossy[0] if lossy else ""}" is compressed with loss, which changes '
        f"class ids ({len(lossy)} of {len(records)} files); save annotations as PNG.",
    )
    return records


def class_folders(root: pathlib.Path) -> tuple[str, ...]:
    """Names of the classes of ``root/train/CLASS`` or ``root/CLASS``, sorted."""
    base = root / SPLITS[0] if (root / SPLITS[0]).is_dir() else root
    check(base.is_dir(), f'"{root}" is not a folder; data.root must hold {LAYOUT}.')
    names = sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    check(bool(names), f'"{base}" has no folders; data.root must hold {LAYOUT}.')
    return tuple(names)


def list_classified(
    root: pathlib.Path,
    split: str,
    classes: tuple[str, ...],
    *,
    ratios: tuple[float, float, float],
    image_suffix: str = "",
) -> list[Record]:
    """Images of one split in folders named by their class, sorted by id; see `list_pairs`.

    Raises:
      UserError: folders are missing, empty, or no class of `classes`.
    """
    divided = (root / SPLITS[0]).is_dir()
    if divided:
        there = [name for name in SPLITS if (root / name).is_dir()]
        _check_split(root, split, there)
    base = root / split if divided else root
    folders = sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    strange = [name for name in folders if name not in classes]
    check(
        not strange,
        f'"{base / strange[0] if strange else ""}" is none of the classes {", ".join(classes[:8])}'
        f"{', ...' if len(classes) > 8 else ''}; rename or remove it.",
    )
    images: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        if (base / name).is_dir():
            found = _by_id(base / name, image_suffix, IMAGE_TYPES, "image")
            for key, path in found.items():
                images[f"{name}/{key}"] = path
                numbers[f"{name}/{key}"] = number
    chosen = sorted(images) if divided else _share(root, images, split, ratios)
    check(bool(chosen), f'"{base}" has no image for the split "{split}".')
    return [Record(i, images[i], numbers[i]) for i in chosen]


def _by_id(folder: pathlib.Path, suffix: str, types: tuple[str, ...], what: str) -> dict[str, str]:
    """Path of each file below `folder` that ends as it should, by id."""
    check(folder.is_dir(), f'there is no folder "{folder}"; data.root must hold {LAYOUT}.')
    found: dict[str, str] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(base, name)
            key = _cut(os.path.relpath(path, folder).replace(os.sep, "/"), suffix, types)
            if key is not None and not name.startswith("."):
                check(
                    key not in found,
                    f'"{found.get(key)}" and "{path}" are two files for the {what} "{key}"; '
                    f"remove one, or set data.{'label' if what == 'annotation' else 'image'}"
                    "_suffix to what the right one ends with.",
                )
                found[key] = path
    check(
        bool(found),
        f'"{folder}" holds no {what} that ends with {suffix or ", ".join(types)}; check data.root '
        "and the suffixes data.image_suffix and data.label_suffix.",
    )
    return found


def _cut(path: str, suffix: str, types: tuple[str, ...]) -> str | None:
    """The path without its suffix; None if it ends otherwise."""
    if suffix and path.endswith(suffix):
        return path[: -len(suffix)]
    stem, kind = os.path.splitext(path)
    if kind.lower() not in types or not stem.endswith(suffix):
        return None
    return stem[: len(stem) - len(suffix)]


def _choose(root, images: Collection[str], split: str, ratios) -> list[str]:
    """The ids of one split."""
    files = [name for name in SPLITS if (root / f"{name}.txt").is_file()]
    if files:
        _check_split(root, split, files)
        return _listed(root, images, split, files)
    folders = [name for name in SPLITS if (root / IMAGES / name).is_dir()]
    if SPLITS[0] in folders:
        _check_split(root, split, folders)
        chosen = sorted(i for i in images if i.startswith(f"{split}/"))
        check(bool(chosen), f'"{root / IMAGES / split}" has no image.')
        return chosen
    return _share(root, images, split, ratios)


def _check_split(root, split: str, there: list[str]) -> None:
    check(split in there, f'"{root}" has no split "{split}"; it has {", ".join(there)}.')


def _listed(root, images: Collection[str], split: str, files: list[str]) -> list[str]:
    """The ids in a split file, which no other split file may repeat."""
    lists = {name: _read_list(root / f"{name}.txt", images) for name in files}
    for name, others in lists.items():
        both = sorted(set(others) & set(lists[split])) if name != split else []
        check(
            not both,
            f'"{both[0] if both else ""}" is in {split}.txt and in {name}.txt of "{root}" '
            f"({len(both)} in both); take it out of one, or the scores would be too good.",
        )
    return lists[split]


def _read_list(path: pathlib.Path, images: Collection[str]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the split file "{path}" cannot be read as UTF-8 text.') from error
    ids: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        key = line.strip().replace("\\", "/").removeprefix(f"{IMAGES}/")
        key = key if key in images else os.path.splitext(key)[0]
        if key:
            check(
                key in images,
                f'"{path}" line {number}: there is no image "{line.strip()}"; write paths below '
                f"{IMAGES}/ without suffix.",
            )
            check(key not in ids, f'"{path}" line {number}: "{key}" is listed twice.')
            ids[key] = None
    check(bool(ids), f'"{path}" lists no image.')
    return sorted(ids)


def _share(root, ids: Iterable[str], split: str, ratios) -> list[str]:
    """The ids whose hash falls into the range of `split`."""
    numbers = all(isinstance(r, int | float) and 0 <= r <= 1 for r in ratios)
    check(
        len(ratios) == len(SPLITS) and numbers and math.isclose(sum(ratios), 1, abs_tol=1e-6),
        f"data.split_ratios={tuple(ratios)} are not three shares, of train, val and test, that "
        "add up to 1.",
    )
    _check_split(root, split, list(SPLITS))
    at = SPLITS.index(split)
    low = sum(ratios[:at])
    high = low + ratios[at] if at < len(SPLITS) - 1 else math.inf
    ids = list(ids)
    chosen = sorted(i for i in ids if low <= _place(i) < high)
    check(
        bool(chosen),
        f'none of the {len(ids)} images of "{root}" falls into the split "{split}", whose share '
        f"is {ratios[at]:g}; change data.split_ratios, or write train.txt and val.txt.",
    )
    return chosen


def _place(key: str) -> float:
    """A number in 0..1 that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
