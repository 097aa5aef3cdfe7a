"""Packs recorded files for the repository: python tests/pack_goldens.py FOLDER_OF_NPZ

Arrays that several files share are stored once, bytes of floats are sorted by significance before
they are compressed, and enlarged logits are dropped where the logits themselves are there (a few
are kept). `golden.Golden` reads the result.
"""

import collections
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "goldens"
KEEP_ENLARGED = ("mmseg_segformer_tiny", "mmseg_psp_r18w8", "mmseg_segnext_tiny")
LEAST_BYTES = 2000  # smaller arrays are stored as they are


def digest(array: np.ndarray) -> str:
    return hashlib.sha1(array.tobytes() + str((array.dtype, array.shape)).encode()).hexdigest()[:12]


def wanted(name: str, key: str, keys: list[str]) -> bool:
    redundant = key.endswith("logits_up") and key.removesuffix("_up") in keys
    unused = key == "meta_json" or key.startswith("labels_")
    return not unused and (not redundant or name in KEEP_ENLARGED)


def save(name: str, arrays: dict[str, np.ndarray], shared: dict[str, str]) -> None:
    floats = {k: a for k, a in arrays.items() if a.dtype == np.float32}
    joined = np.concatenate([a.ravel() for a in floats.values()])
    planes = np.frombuffer(joined.tobytes(), np.uint8).reshape(-1, 4).T
    about = json.dumps({"shapes": {k: a.shape for k, a in floats.items()}, "shared": shared})
    others = {k: a for k, a in arrays.items() if k not in floats}
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        about=np.frombuffer(about.encode(), np.uint8),
        planes=np.ascontiguousarray(planes),
        **others,
    )


def main(source: Path) -> None:
    files = {}
    for path in sorted(source.glob("*.npz")):
        with np.load(path) as archive:
            keys = [k for k in archive if wanted(path.stem, k, archive.files)]
            files[path.stem] = {k: archive[k] for k in keys}
    uses = collections.Counter(
        d
        for arrays in files.values()
        for d in {digest(a) for a in arrays.values() if a.nbytes >= LEAST_BYTES}
    )
    common = {}
    for name, arrays in files.items():
        shared = {k: digest(a) for k, a in arrays.items() if uses[digest(a)] > 1}
        common |= {d: arrays[k] for k, d in shared.items()}
        save(name, {k: a for k, a in arrays.items() if k not in shared}, shared)
    save("common", common, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
