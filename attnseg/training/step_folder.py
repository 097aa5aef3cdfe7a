"""The folders below ``WORKDIR/checkpoints``: which are checkpoints, and which of those are sound.

``STEP/`` is finished: it was given its name after its last file was on the disk.
``STEP.partial/`` is being written, or was when the process died. ``STEP.removed/`` is being
deleted. ``STEP.replaced/`` makes place for another of the same step. ``STEP.damaged/`` was set
aside.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from attnseg.core.files import sync_folder
from attnseg.training import manifest

STATE, META, METRICS = "state", "meta/metadata", "metrics/metrics"
FORMAT = 1  # of `META`; 0, without the key, is that of 0.1.0, which kept no checksums
REPLACED = ".replaced"
# Orbax's own name for the unfinished is what release 0.1.0 left behind.
_UNFINISHED = re.compile(r"\d+\.(partial|removed|orbax-checkpoint-tmp).*")


class Verdict(NamedTuple):
    """What is known of a checkpoint.

    Attributes:
      damage: what is wrong, a clause that names the file; None if nothing is.
      verified: whether every file was compared with its checksum.
    """

    damage: str | None
    verified: bool


def list_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, rising."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _is_step(path))


def _is_step(path: Path) -> bool:
    return re.fullmatch(r"0|[1-9]\d*", path.name) is not None and path.is_dir()


def list_unfinished(folder: Path) -> list[Path]:
    """What a process that died while it wrote or deleted a checkpoint left behind."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _UNFINISHED.fullmatch(path.name)
        or (path.suffix == REPLACED and path.with_suffix("").exists())
    )


def publish(partial: Path, final: Path) -> None:
    """Gives a finished folder its name, also where a checkpoint of the step is there already.

    A process that dies meanwhile leaves that one for `recover`.
    """
    old = final.with_name(final.name + REPLACED)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    if old.exists():
        remove(old)


def recover(folder: Path) -> None:
    """Gives checkpoints their name back that were to be replaced when the process died."""
    for old in folder.glob(f"*{REPLACED}") if folder.is_dir() else ():
        if not old.with_suffix("").exists():
            old.rename(old.with_suffix(""))


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def read_meta(folder: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    return _read_json(folder / META)


def read_score(folder: Path, metric: str) -> float | None:
    """The score a checkpoint was saved with; None if it was not evaluated."""
    try:
        value = _read_json(folder / METRICS)[metric]
    except (OSError, ValueError, KeyError):
        return None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def judge(folder: Path) -> Verdict:
    """Compares a checkpoint with its manifest; one of release 0.1.0 has none."""
    damage = manifest.find_damage(folder)
    if damage is None or (folder / manifest.NAME).exists():
        return Verdict(damage, verified=True)
    try:
        meta = read_meta(folder)
    except FileNotFoundError:
        return Verdict(f"{META} is missing", verified=False)
    except (OSError, ValueError, RecursionError):
        return Verdict(f"{META} cannot be read", verified=False)
    if meta.get("format", 0) != 0:
        return Verdict(damage, verified=False)
    for name in (f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt"):
        if not (folder / name).is_file():
            return Verdict(f"{name} is missing", verified=False)
    return Verdict(None, verified=False)


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again; returns where it is."""
    target, count = folder.with_name(f"{folder.name}.damaged"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.damaged-{count}")
    return folder.rename(target)


def remove(folder: Path) -> None:
    """Deletes a folder or file; a process that dies meanwhile leaves nothing that looks whole."""
    if _is_step(folder):
        folder = folder.rename(folder.with_name(f"{folder.name}.removed"))
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
