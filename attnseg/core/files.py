"""Writing files: whole or not at all, and in one sentence when the disk will not take them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnseg.core.errors import UserError

# What a disk refuses for reasons that its owner can mend, and how.
_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "give yourself the right to write there, or choose another folder",
    errno.EPERM: "give yourself the right to write there, or choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed; move it, or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; move it, or choose another folder",
    errno.EIO: "check the disk",
    errno.ESTALE: "check that the network disk is mounted",
}


def disk_reason(error: BaseException, wrapped: bool = False) -> tuple[str, str] | None:
    """What the disk says and how to mend it; None if `error` does not come from the disk.

    Args:
      wrapped: also search the texts of `error` and its causes: libraries wrap errors of the
        system in their own and keep only the text.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in _CURES:
            return os.strerror(found.errno).lower(), _CURES[found.errno]
        for number, cure in _CURES.items() if wrapped else ():
            if os.strerror(number).lower() in str(found).lower():
                return os.strerror(number).lower(), cure
        found = found.__cause__
    return None


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turns what the disk refuses within the block into a `UserError` that begins with `what`.

    Other errors pass as they are.
    """
    try:
        yield
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        raise UserError(f"{what}: {reason[0]}; {reason[1]}.") from error


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never half of it.

    The content is on the disk, not only on its way there, when this returns.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with told(f"{path} could not be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON as `write_bytes` does, indented."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def sync_folder(path: str | Path) -> None:
    """Puts a folder's list of names on the disk, where the system has a way to."""
    with contextlib.suppress(OSError):  # no folder can be opened on Windows, some disks refuse
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(folder: str | Path) -> None:
    """Makes `folder` and a file in it, which is removed again.

    Raises:
      UserError: either cannot be done.
    """
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}"
    with told(f"{folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"attnseg")
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
