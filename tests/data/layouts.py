"""Tiny fake copies of the public benchmarks, in their real directory layouts.

Each writer takes the folder that becomes ``data.root`` and returns nothing; `WRITERS` is the table.
Images are noise of 24x32 pixels, annotations are noise of all ids the data set's files may hold.
"""

import pathlib

import cv2
import numpy as np
from PIL import Image

from attnseg.data import class_names

HEIGHT, WIDTH = 24, 32
CAMVID_FRAMES = ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000")  # one of each split
_RNG = np.random.default_rng(0)


def write_image(path: pathlib.Path) -> None:
    """Noise, as JPEG or PNG by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), _RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def noise(ids, dtype=np.uint8) -> np.ndarray:
    """[h w] that holds `ids`, each at least once where there is room."""
    ids = np.asarray(list(ids), dtype)
    rest = _RNG.choice(ids, max(0, HEIGHT * WIDTH - len(ids)))
    return np.concatenate([ids, rest])[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH)


def write_ids(path: pathlib.Path, ids, dtype=np.uint8) -> None:
    """A grey PNG of ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), noise(ids, dtype))


def write_palette(path: pathlib.Path, ids) -> None:
    """A palette PNG, as VOC's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(noise(ids), "P")
    image.putpalette(_RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def write_colours(path: pathlib.Path, colours) -> None:
    """An RGB PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.asarray(colours, np.uint8)[noise(range(len(colours)))]
    cv2.imwrite(str(path), rgb[..., ::-1])


def cityscapes(root: pathlib.Path) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "munster")):
        stem = f"{city}_000000_000019"
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        labels = root / "gtFine" / split / city
        write_ids(labels / f"{stem}_gtFine_labelIds.png", range(34))
        write_ids(labels / f"{stem}_gtFine_instanceIds.png", (7, 26001), np.uint16)
        write_image(labels / f"{stem}_gtFine_color.png")
        (labels / f"{stem}_gtFine_polygons.json").write_text("{}")
    write_image(root / "leftImg8bit" / "test" / "berlin" / "berlin_000000_000019_leftImg8bit.png")


def ade20k(root: pathlib.Path) -> None:
    root = root / "ADEChallengeData2016"
    for folder, names in (
        ("training", ("ADE_train_00000001", "ADE_train_00000002")),
        ("validation", ("ADE_val_00000001",)),
    ):
        for name in names:
            write_image(root / "images" / folder / f"{name}.jpg")
            write_ids(root / "annotations" / folder / f"{name}.png", range(151))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")


def voc2012(root: pathlib.Path) -> None:
    root = root / "VOCdevkit" / "VOC2012"
    lists = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    for name in lists["trainval"]:
        write_image(root / "JPEGImages" / f"{name}.jpg")
        write_palette(root / "SegmentationClass" / f"{name}.png", [*range(21), 255])
        write_palette(root / "SegmentationObject" / f"{name}.png", range(3))
    write_image(root / "JPEGImages" / "2007_000027.jpg")  # of the detection task alone
    for name, listed in lists.items():
        write_text(root / "ImageSets" / "Segmentation" / f"{name}.txt", "\n".join(listed) + "\n")


def voc2012_aug(root: pathlib.Path) -> None:
    voc2012(root)
    root = root / "VOCdevkit" / "VOC2012"
    write_image(root / "JPEGImages" / "2008_000007.jpg")
    for name in ("2007_000032", "2007_000033", "2008_000007"):
        write_ids(root / "SegmentationClassAug" / f"{name}.png", range(21))
    listed = "2007_000032\n2007_000039\n2008_000007\n"
    write_text(root / "ImageSets" / "Segmentation" / "train_aug.txt", listed)


def coco_stuff164k(root: pathlib.Path) -> None:
    for folder, names in (
        ("train2017", ("000000000009", "000000000025")),
        ("val2017", ("000000000139",)),
    ):
        for name in names:
            write_image(root / "images" / folder / f"{name}.jpg")
            raw = [*class_names.COCO_STUFF_RAW, 255]
            write_ids(root / "stuffthingmaps" / folder / f"{name}.png", raw)


def coco_stuff164k_train_ids(root: pathlib.Path) -> None:
    """COCO-Stuff as mmsegmentation converts it."""
    for folder, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        write_image(root / "images" / folder / f"{name}.jpg")
        labels = root / "annotations" / folder
        write_ids(labels / f"{name}_labelTrainIds.png", [*range(171), 255])


def camvid(root: pathlib.Path) -> None:
    for split, name in zip(("train", "val", "test"), CAMVID_FRAMES, strict=True):
        write_image(root / split / f"{name}.png")
        write_ids(root / f"{split}annot" / f"{name}.png", range(12))


def camvid32(root: pathlib.Path) -> None:
    for name in CAMVID_FRAMES:
        write_image(root / "701_StillsRaw_full" / f"{name}.png")
        write_colours(root / "LabeledApproved_full" / f"{name}_L.png", class_names.CAMVID32_COLOURS)
    (root / "label_colors.txt").write_text("64 128 64\tAnimal\n")


def camvid32_split(root: pathlib.Path) -> None:
    """CamVid of 32 classes with a folder for each split."""
    for split, name in zip(("train", "val", "test"), CAMVID_FRAMES, strict=True):
        write_image(root / split / f"{name}.png")
        write_colours(root / f"{split}_labels" / f"{name}_L.png", class_names.CAMVID32_COLOURS)


def dsb2018(root: pathlib.Path) -> None:
    lists = {"train": ["00ae65c1", "0280fa8f"], "val": ["0d2bf916"]}
    for name in lists["train"] + lists["val"]:
        write_image(root / "images" / f"{name}.png")
        write_ids(root / "labels" / f"{name}.png", (0, 1, 2, 256, 300), np.uint16)
    for split, names in lists.items():
        write_text(root / f"{split}.txt", "\n".join(names))


def write_text(path: pathlib.Path, text: str) -> None:
    """A text file with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


WRITERS = {
    writer.__name__: writer
    for writer in (
        ade20k,
        camvid,
        camvid32,
        cityscapes,
        coco_stuff164k,
        dsb2018,
        voc2012,
        voc2012_aug,
    )
}
