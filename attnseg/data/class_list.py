"""The class list of a folder of one's own: names, colours and raw ids, from text or JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

from attnseg.core.errors import UserError, check, did_you_mean
from attnseg.core.types import IGNORE
from attnseg.data.info import DatasetInfo, colour_map

IGNORED = "ignore"  # name of the entries whose pixels do not count
MAX_RAW = 65535  # largest value of a 16-bit annotation
FORMAT = (
    "one class a line: NAME, then if wanted a colour (#rrggbb or R G B) and the raw ids in the "
    "files (7 or 7,8 or 1-400)"
)
_KEYS = ("name", "colour", "ids")
_LINE = re.compile(
    r"""(?:"(?P<quoted>[^"]+)"|(?P<name>.+?))
        (?:\s+(?:\#(?P<hex>[0-9a-fA-F]{6})|(?P<rgb>\d+\s+\d+\s+\d+)))?
        (?:\s+(?P<ids>\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*))?""",
    re.VERBOSE,
)

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    colour: Colour | None = None
    ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassList:
    """What a class list says.

    Attributes:
      info: classes, palette and label map, of segmentation data.
      colours: RGB colours (0..255) that annotations may be drawn in; empty if the list names none.
      colour_ids: raw id of each of `colours`.
    """

    info: DatasetInfo
    colours: tuple[Colour, ...]
    colour_ids: tuple[int, ...]


def read_names(path: str | pathlib.Path) -> tuple[str, ...]:
    """The names in a class list, in its order, for data whose classes need nothing else."""
    return tuple(entry.name for entry in _entries(pathlib.Path(path)))


def read_class_list(path: str | pathlib.Path, name: str = "folder") -> ClassList:
    """Reads ``classes.txt`` or ``classes.json``.

    Text is `FORMAT`; a name with a number at its end stands in double quotes. JSON is a list of
    names or of ``{"name": ..., "colour": "#rrggbb" | [r, g, b], "ids": 7 | [7, 8] | "1-400"}``.
    Train ids follow the order of the list. A class without raw ids has its own position as the
    only one. Entries called "ignore" are no class: their ids and colours become `IGNORE`, as does
    255 unless a class claims it.

    Raises:
      UserError: the file is missing, empty, cannot be parsed, or two of its classes share a name,
        raw id or colour; names file and line.
    """
    path = pathlib.Path(path)
    entries = _entries(path)
    classes = [entry for entry in entries if entry.name != IGNORED]
    check(bool(classes), f'"{path}" lists no class; write {FORMAT}.')
    label_map: dict[int, int] = {}
    firsts = []
    for train, entry in enumerate(classes):
        for raw in entry.ids or (train,):
            check(
                raw not in label_map,
                f'"{path}": raw id {raw} stands for "{classes[label_map.get(raw, 0)].name}" and '
                f'for "{entry.name}"; give each class its own.',
            )
            label_map[raw] = train
        firsts.append((entry, entry.ids[0] if entry.ids else train))
    for entry in (entry for entry in entries if entry.name == IGNORED):
        for raw in entry.ids or (IGNORE,):
            check(
                label_map.setdefault(raw, IGNORE) == IGNORE,
                f'"{path}": raw id {raw} is ignored and stands for a class; choose one.',
            )
        firsts.append((entry, entry.ids[0] if entry.ids else IGNORE))
    label_map.setdefault(IGNORE, IGNORE)
    coloured = [(entry.colour, raw) for entry, raw in firsts if entry.colour is not None]
    colours = tuple(colour for colour, _ in coloured)
    check(len(set(colours)) == len(colours), f'"{path}": one colour stands for two classes.')
    spare = iter(c for c in colour_map(len(classes) + len(colours)) if c not in colours)
    info = DatasetInfo(
        name=name,
        task="segmentation",
        classes=tuple(entry.name for entry in classes),
        palette=tuple(next(spare) if e.colour is None else e.colour for e in classes),
        label_map=label_map,
        citation="",
        licence="",
    )
    return ClassList(info, colours, tuple(raw for _, raw in coloured))


def _entries(path: pathlib.Path) -> list[_Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f'the class list "{path}" cannot be read ({error.strerror}); write {FORMAT}, or name '
            "another file with --config.data.classes=FILE."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f'the class list "{path}" is no UTF-8 text; write {FORMAT}.') from error
    entries = _from_json(path, text) if path.suffix == ".json" else _from_text(path, text)
    names = [entry.name for entry in entries if entry.name != IGNORED]
    for entry in names:
        check(
            names.count(entry) == 1,
            f'"{path}" lists "{entry}" twice; if a number belongs to the name, write the name in '
            "double quotes.",
        )
    return entries


def _from_text(path: pathlib.Path, text: str) -> list[_Entry]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f'"{path}" line {number}'
            match = _LINE.fullmatch(line.strip())
            check(
                match is not None and "#" not in (match["name"] or ""),
                f'{where}: "{line.strip()}" cannot be understood; write {FORMAT}.',
            )
            colour = _hex(match["hex"]) if match["hex"] else None
            if match["rgb"]:
                colour = _colour([int(part) for part in match["rgb"].split()], where)
            name = match["quoted"] or match["name"]
            entries.append(_Entry(name, colour, _ids(match["ids"], where)))
    return entries


def _from_json(path: pathlib.Path, text: str) -> list[_Entry]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'"{path}" is no JSON ({error}); correct it, or use text.') from error
    check(isinstance(listed, list), f'"{path}" must hold a JSON list of classes.')
    return [_from_item(item, f'"{path}" entry {i}') for i, item in enumerate(listed)]


def _from_item(item: Any, where: str) -> _Entry:
    item = {"name": item} if isinstance(item, str) else item
    ok = isinstance(item, dict) and isinstance(item.get("name"), str) and item["name"]
    check(bool(ok), f"{where}: {item!r} is neither a name nor an object with one.")
    for key in item:
        check(
            key in _KEYS,
            f'{where}: unknown key "{key}".{did_you_mean(key, _KEYS)} Known: {", ".join(_KEYS)}.',
        )
    colour = item.get("colour")
    if isinstance(colour, str):
        found = re.fullmatch(r"#([0-9a-fA-F]{6})", colour)
        check(found is not None, f'{where}: colour "{colour}" is not of the form #rrggbb.')
        colour = _hex(found[1])
    elif colour is not None:
        colour = _colour(colour, where)
    ids = item.get("ids")
    if isinstance(ids, list):
        ids = ",".join(map(str, ids))
    return _Entry(item["name"], colour, _ids(None if ids is None else str(ids), where))


def _hex(digits: str) -> Colour:
    return tuple(bytes.fromhex(digits))


def _colour(parts: Any, where: str) -> Colour:
    ok = isinstance(parts, list) and len(parts) == 3
    ok = ok and all(type(part) is int and 0 <= part <= 255 for part in parts)
    check(ok, f"{where}: colour {parts} is not three numbers from 0 to 255.")
    return tuple(parts)


def _ids(text: str | None, where: str) -> tuple[int, ...]:
    """Reads "7", "7,8" or "1-400"."""
    ids: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        low = int(match[1]) if match else -1
        high = int(match[2] or low) if match else -1
        check(
            0 <= low <= high <= MAX_RAW,
            f'{where}: raw id "{part}" is neither a number from 0 to {MAX_RAW} nor a range of '
            "them such as 1-400.",
        )
        ids += range(low, high + 1)
    return tuple(ids)
