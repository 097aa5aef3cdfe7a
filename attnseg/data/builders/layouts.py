"""Where the files of the public benchmarks lie, as their authors distribute them."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import class_names
from attnseg.data.builders.camvid import CAMVID, CAMVID32
from attnseg.data.builders.pairs import Layout, Pair, files, match, png
from attnseg.data.decode import decode_label

Splits = dict[str, list[Pair]]


def _inside(root: pathlib.Path, *names: str) -> pathlib.Path:
    """The folder of that name in `root`, or `root` where the user named the folder itself."""
    for name in names:
        root = root / name if (root / name).is_dir() else root
    return root


# Cityscapes, fine annotations: gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip.


def _find_cityscapes(root: pathlib.Path) -> Splits:
    found = {}
    for split in ("train", "val", "test"):
        labels = root / "gtFine" / split
        if split == "test" and not labels.is_dir():  # only for the evaluation server
            continue
        images = files(root / "leftImg8bit" / split, "*/*_leftImg8bit.png")
        name = functools.partial(_cityscapes_label, labels)
        only = name(images[0], "labelTrainIds")
        if only.is_file() and not name(images[0], "labelIds").is_file():
            raise UserError(
                f'there is only "{only}", of train ids, where *_gtFine_labelIds.png of the 34 '
                "original ids are needed"
            )
        found[split] = match(
            images, lambda i, of=name: of(i, "labelIds"), lambda i: i.stem[: -len("_leftImg8bit")]
        )
    return found


def _cityscapes_label(folder: pathlib.Path, image: pathlib.Path, kind: str) -> pathlib.Path:
    stem = image.stem.removesuffix("_leftImg8bit")
    return folder / image.parent.name / f"{stem}_gtFine_{kind}.png"


CITYSCAPES = Layout(
    name="cityscapes",
    expected=(
        "leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and "
        "gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png"
    ),
    find=_find_cityscapes,
)


# ADE20K scene parsing: ADEChallengeData2016.zip. 0 is "other", 1..150 the classes.


def _find_ade20k(root: pathlib.Path) -> Splits:
    root = _inside(root, "ADEChallengeData2016")
    return {
        split: match(
            files(root / "images" / folder, "*.jpg"),
            lambda image, at=root / "annotations" / folder: at / f"{image.stem}.png",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    }


ADE20K = Layout(
    name="ade20k",
    expected=(
        "ADEChallengeData2016/images/{training,validation}/NAME.jpg and "
        "annotations/{training,validation}/NAME.png"
    ),
    find=_find_ade20k,
)


# PASCAL VOC 2012: VOCtrainval_11-May-2012.tar. Palette PNGs, 255 on the borders of objects. The
# augmented training list adds the annotations of SBD (Hariharan et al. 2011) as grey PNGs.

_VOC_LISTS = {"train": ("train.txt",), "val": ("val.txt",), "trainval": ("trainval.txt",)}
_AUG_LISTS = {"train": ("train_aug.txt", "trainaug.txt"), "val": ("val.txt",)}


def _find_voc(lists: dict[str, tuple[str, ...]], masks: tuple[str, ...], root: pathlib.Path):
    root = _inside(root, "VOCdevkit", "VOC2012")
    listed = {s: _voc_names(root, names) for s, names in lists.items()}
    return {
        split: match(
            (root / "JPEGImages" / f"{name}.jpg" for name in names),
            # Validation keeps the original annotations, with their borders.
            functools.partial(_voc_label, root, masks if split == "train" else masks[:1]),
        )
        for split, names in listed.items()
    }


def _voc_names(root: pathlib.Path, names: tuple[str, ...]) -> list[str]:
    """Names of examples in the first of the lists `names` that exists."""
    folder = root / "ImageSets" / "Segmentation"
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        raise UserError(f'the list "{folder / names[0]}" is missing')
    lines = [line.split() for line in paths[0].read_text().splitlines()]
    # A line is NAME, or as in DeepLab's lists /JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png.
    found = [pathlib.PurePosixPath(line[0]).stem for line in lines if line]
    if not found:
        raise UserError(f'the list "{paths[0]}" is empty')
    return found


def _voc_label(root: pathlib.Path, masks: tuple[str, ...], image: pathlib.Path) -> pathlib.Path:
    """The annotation in the last folder of `masks` that has one."""
    paths = [root / folder / f"{image.stem}.png" for folder in reversed(masks)]
    return next((path for path in paths if path.is_file()), paths[0])


VOC2012 = Layout(
    name="voc2012",
    expected=(
        "VOCdevkit/VOC2012/ with JPEGImages/NAME.jpg, SegmentationClass/NAME.png and "
        "ImageSets/Segmentation/{train,val,trainval}.txt"
    ),
    find=functools.partial(_find_voc, _VOC_LISTS, ("SegmentationClass",)),
)

VOC2012_AUG = Layout(
    name="voc2012_aug",
    expected=(
        "VOCdevkit/VOC2012/ with JPEGImages/NAME.jpg, SegmentationClass/NAME.png, "
        "SegmentationClassAug/NAME.png and ImageSets/Segmentation/{train_aug,val}.txt"
    ),
    find=functools.partial(_find_voc, _AUG_LISTS, ("SegmentationClass", "SegmentationClassAug")),
)


# COCO-Stuff 164k: train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip. Raw ids are
# those of COCO less one: 0..90 things, 91..181 stuff, 255 unlabelled.

_COCO_TRAIN_IDS = "_labelTrainIds.png"  # as mmsegmentation converts them


def _find_coco_stuff(root: pathlib.Path) -> Splits:
    found = {}
    for split, folder in (("train", "train2017"), ("val", "val2017")):
        images = files(root / "images" / folder, "*.jpg")
        choices = (
            (root / "stuffthingmaps" / folder, ".png"),
            (root / "annotations" / folder, ".png"),
            (root / "annotations" / folder, _COCO_TRAIN_IDS),
        )
        first = images[0].stem
        # Where none has the first annotation, the first choice is the one that is missing.
        at, end = next((c for c in choices if (c[0] / f"{first}{c[1]}").is_file()), choices[0])
        found[split] = match(images, lambda image, at=at, end=end: at / f"{image.stem}{end}")
    return found


def _read_coco_label(path: pathlib.Path) -> bytes:
    """The file, whose train ids, if it holds such, go back to raw ids."""
    data = path.read_bytes()
    if not path.name.endswith(_COCO_TRAIN_IDS):
        return data
    raw_of = np.array(class_names.COCO_STUFF_RAW, np.uint8)
    ids = decode_label(data)
    wrong = (ids >= len(raw_of)) & (ids != IGNORE)
    if wrong.any():
        raise UserError(
            f"value {ids[wrong][0]} in {wrong.sum()} pixels is no train id 0..{len(raw_of) - 1} "
            f"nor {IGNORE}; convert the annotation again."
        )
    return png(np.where(ids == IGNORE, IGNORE, raw_of[np.minimum(ids, len(raw_of) - 1)]))


COCO_STUFF164K = Layout(
    name="coco_stuff164k",
    expected=(
        "images/{train2017,val2017}/NAME.jpg and stuffthingmaps/{train2017,val2017}/NAME.png "
        "(or annotations/ in its place, also with NAME_labelTrainIds.png)"
    ),
    find=_find_coco_stuff,
    read_label=_read_coco_label,
)


# Data Science Bowl 2018: one PNG of nucleus numbers for each image, 0 the background.


def _find_dsb2018(root: pathlib.Path) -> Splits:
    found = {}
    for split in ("train", "val"):
        names = root / f"{split}.txt"
        if not names.is_file():
            raise UserError(f'the list "{names}" is missing')
        images = [root / "images" / f"{name}.png" for name in names.read_text().split()]
        found[split] = match(images, lambda image: root / "labels" / image.name)
    return found


def _nuclei(path: pathlib.Path) -> bytes:
    return png((decode_label(path.read_bytes()) > 0).astype(np.uint8))


DSB2018 = Layout(
    name="dsb2018",
    expected="images/NAME.png, labels/NAME.png (nucleus numbers), train.txt and val.txt",
    find=_find_dsb2018,
    read_label=_nuclei,
)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        CAMVID,
        CAMVID32,
        CITYSCAPES,
        ADE20K,
        VOC2012,
        VOC2012_AUG,
        COCO_STUFF164K,
        DSB2018,
    )
}
