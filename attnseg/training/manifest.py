"""Sizes and SHA-256 of the files of a finished checkpoint, in its ``MANIFEST.json``.

Array files hold no checksum of their own that a reader looks at: a flipped bit in one restores
as another number, without a word.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from attnseg.core.files import write_bytes

NAME = "MANIFEST.json"
_THREADS = 4  # hashing lets go of the interpreter lock


def _digest(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
                    raise  # a full network disk may say so only now
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(files: dict[str, Any]) -> bytes:
    """The one way to write `files`; the first line is the checksum of the rest."""
    body = json.dumps(files, indent=1, sort_keys=True)
    return (
        f'{{"sha256": "{hashlib.sha256(body.encode()).hexdigest()}", "files":\n{body}}}\n'.encode()
    )


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def write_manifest(folder: str | Path) -> None:
    """Lists all files below `folder` with size in bytes and SHA-256, after syncing them to disk.

    Raises:
      OSError, UserError: a file cannot be read, or the manifest not be written.
    """
    folder = Path(folder)
    paths = _listed(folder)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda path: _digest(path, sync=True), paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    write_bytes(folder / NAME, _text(files))


def find_damage(folder: str | Path) -> str | None:
    """The first thing in which `folder` differs from what its manifest says, None without one.

    Files that the manifest does not name are nobody's business.

    Returns:
      A clause that names the file, e.g. ``state/d/1f has 381 bytes instead of 382``.
    """
    folder = Path(folder)
    try:
        raw = (folder / NAME).read_bytes()
        files = json.loads(raw)["files"]
        if raw != _text(files):
            raise ValueError("its checksum differs")
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in files.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except OSError as error:
        return f"{NAME} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{NAME} is not as it was written"

    def look(item: tuple[str, tuple[int, str]]) -> str | None:
        name, (length, digest) = item
        path = folder / name
        try:
            size = path.stat().st_size
            if size != length:
                return f"{name} has {size} bytes instead of {length}"
            same = _digest(path) == digest
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None if same else f"{name} has other content than was written"

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return next((fault for fault in pool.map(look, files.items()) if fault), None)
