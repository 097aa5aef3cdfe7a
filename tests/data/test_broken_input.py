"""Kinds of broken input: each is refused before training, in one sentence with a cure.

Every case starts from a sound folder of six examples, breaks one thing, and then does what a run
does before its first step: read the class list, list the files, look at every label.
"""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from own_folders import classified, image, label, pairs, write
from PIL import Image

from attnseg.core.errors import UserError
from attnseg.data import Folder, eval_batches, scan_labels, train_batches
from attnseg.data.transforms import EvalResize, RandomGeometry

IDS = ("a", "b", "c", "d", "e", "f")
ALL = (1.0, 0.0, 0.0)
CASES = {}


def case(pattern, **settings):
    """Registers a function ``root -> None`` that breaks a folder, and what is said of it."""

    def register(function):
        CASES[function.__name__] = (function, pattern, settings)
        return function

    return register


def check_before_training(root, split="train", **settings):
    folder = Folder(str(root), **{"ratios": ALL, **settings})
    scan_labels(folder.open(split), folder.info())


def masks(root, function):
    """Replaces every annotation by ``function(ids u8 [h w])``."""
    for seed, name in enumerate(IDS):
        write(root / "labels" / f"{name}.png", function(label(seed)))


def listing(root, **lists):
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text)


# The folder and its files.


@case(r"is not a folder; data\.root must hold images/")
def root_that_is_missing(root):
    shutil.rmtree(root)


@case(r'no folder ".*images"')
def images_folder_missing(root):
    shutil.rmtree(root / "images")


@case(r'no folder ".*labels"')
def labels_folder_missing(root):
    shutil.rmtree(root / "labels")


@case(r'images" holds no image that ends with \.jpg')
def images_of_no_known_type(root):
    for name in IDS:
        (root / "images" / f"{name}.png").rename(root / "images" / f"{name}.npy")


@case(r'a\.png" has no annotation ".*labels/a\.png" \(1 of 6 images')
def annotation_missing(root):
    (root / "labels" / "a.png").unlink()


@case(r"\(6 of 6 images have none; labels/ has e\.g\. 'a_mask'\).*data\.label_suffix")
def annotations_with_another_suffix(root):
    for name in IDS:
        (root / "labels" / f"{name}.png").rename(root / "labels" / f"{name}_mask.png")


@case(r"holds no annotation that ends with _seg\.png", label_suffix="_seg.png")
def suffix_that_no_file_has(root):
    pass


@case(r'a\.(png|jpg)" are two files for the image "a"')
def two_images_of_one_name(root):
    write(root / "images" / "a.jpg", image())


@case(r'two files for the annotation "a".*data\.label_suffix')
def two_annotations_of_one_name(root):
    write(root / "labels" / "a.tif", label())


@case(r"compressed with loss.*\(1 of 6 files\); save annotations as PNG")
def annotation_as_jpeg(root):
    (root / "labels" / "b.png").unlink()
    write(root / "labels" / "b.jpg", label())


# Splits.


@case(r'train\.txt" line 2: there is no image "nowhere"')
def split_file_with_a_name_that_is_not_there(root):
    listing(root, train="a\nnowhere\n")


@case(r'train\.txt" line 3: "a" is listed twice')
def split_file_that_repeats_a_name(root):
    listing(root, train="a\nb\na\n")


@case(r'train\.txt" lists no image')
def split_file_that_is_empty(root):
    listing(root, train="\n")


@case(r"cannot be read as UTF-8")
def split_file_that_is_no_text(root):
    (root / "train.txt").write_bytes(b"\xff\xfe\x00a")


@case(r'"b" is in train\.txt and in val\.txt.*scores would be too good')
def example_in_two_splits(root):
    listing(root, train="a\nb\n", val="b\nc\n")


@case(r'no split "train"; it has val\.')
def split_that_is_not_there(root):
    listing(root, val="a\n")


@case(r'none of the 6 images .* "val", whose share is 0', split="val")
def split_that_gets_nothing(root):
    pass


@case(r"three shares.*add up to 1", ratios=(0.8, 0.1, 0.2))
def shares_that_are_not_one(root):
    pass


# The class list.


@case(r'classes\.txt" cannot be read.*data\.classes=FILE')
def class_list_missing(root):
    (root / "classes.txt").unlink()


@case(r"lists no class")
def class_list_empty(root):
    listing(root, classes="")


@case(r'lists "class" twice; if a number belongs to the name')
def class_names_that_repeat(root):
    listing(root, classes="class 0\nclass 1\n")


@case(r'line 2: "car #12" cannot be understood')
def colour_that_is_none(root):
    listing(root, classes="road #000000\ncar #12\n")


@case(r"line 2: colour \[1, 2, 300\] is not three numbers from 0 to 255")
def colour_out_of_range(root):
    listing(root, classes="road\ncar 1 2 300\n")


@case(r'raw id 1 stands for "car" and for "tree"')
def raw_id_of_two_classes(root):
    listing(root, classes="road\ncar\ntree 1\n")


@case(r"one colour stands for two classes")
def colour_of_two_classes(root):
    listing(root, classes="road #010101\ncar #010101\ntree #010102\n")


@case(r'line 1: raw id "9-3" is neither')
def raw_ids_backwards(root):
    listing(root, classes="road 9-3\n")


@case(r"is no JSON")
def class_list_of_broken_json(root):
    (root / "classes.json").write_text('["road",')


@case(r'unknown key "color"\. Did you mean "colour"')
def class_list_with_an_unknown_key(root):
    (root / "classes.json").write_text('[{"name": "road", "color": "#000000"}]')


# Annotations.


@case(r'c\.png": label value 7 \(3 pixels\) is not in the label map.* 0-2, 255; correct')
def value_out_of_range(root):
    ids = label()
    ids[0, :3] = 7
    write(root / "labels" / "c.png", ids)


@case(r"label value 3 .*; 5 more of the first 6 examples have faults too")
def labels_off_by_one(root):
    masks(root, lambda ids: ids + 1)


@case(r"in RGB, but the class list gives no colours; write NAME #rrggbb")
def rgb_masks_without_colours(root):
    masks(root, lambda ids: np.dstack([ids, ids + 1, ids]) * 50)


@case(r"channels are equal, so save one of them as 8-bit grey")
def index_masks_saved_as_rgb(root):
    masks(root, lambda ids: np.dstack([ids] * 3))


@case(r"colours that are not in the colour map: \(2, 2, 2\) in \d+ pixels")
def colours_that_the_list_lacks(root):
    listing(root, classes="road #000000\ncar #010101\ntree #030303\n")
    masks(root, lambda ids: np.dstack([ids] * 3))


@case(r'only 0 and 255 .*raw id 255 in the class list \("NAME 255"\)')
def binary_masks_of_0_and_255(root):
    listing(root, classes="background\ncell\n")
    masks(root, lambda ids: (ids > 0).astype(np.uint8) * 255)


@case(r"all \d+ pixels of the 6 annotations of folder looked at are ignored")
def masks_of_nothing_but_ignored(root):
    masks(root, lambda ids: np.full_like(ids, 255))


@case(r"label value 64 .*128")
def masks_smoothed_by_a_resize(root):
    listing(root, classes="background\ncell 255\n")
    masks(root, lambda ids: ids * 64)


@case(r'd\.png": the annotation is 8x12 and its image 16x12 pixels .* replace the one')
def sizes_that_differ(root):
    write(root / "labels" / "d.png", label(size=(12, 8)))


@case(r"turned by its orientation tag, so save it upright")
def image_turned_against_its_annotation(root):
    write(root / "labels" / "d.png", label(size=(16, 12)))


@case(r"labels must be integers, these are float32")
def annotation_of_floats(root):
    (root / "labels" / "e.png").unlink()
    Image.fromarray(label().astype(np.float32)).save(root / "labels" / "e.tif")


# Files that cannot be read.


@case(r'a\.png": the image cannot be decoded')
def empty_image(root):
    (root / "images" / "a.png").write_bytes(b"")


@case(r'a\.png": the image cannot be decoded')
def web_page_in_place_of_an_image(root):
    (root / "images" / "a.png").write_text("<html>Not found</html>")


@case(r'a\.jpg": the image cannot be decoded')
def jpeg_cut_off(root):
    (root / "images" / "a.png").unlink()
    write(root / "images" / "a.jpg", image())
    data = (root / "images" / "a.jpg").read_bytes()
    (root / "images" / "a.jpg").write_bytes(data[: len(data) // 2])


@case(r'a\.png": the image cannot be decoded')
def png_cut_off(root):
    data = (root / "images" / "a.png").read_bytes()
    (root / "images" / "a.png").write_bytes(data[: len(data) * 2 // 3])


@case(r'b\.png": the annotation cannot be decoded')
def annotation_cut_off(root):
    data = (root / "labels" / "b.png").read_bytes()
    (root / "labels" / "b.png").write_bytes(data[: len(data) * 2 // 3])


@case(r'a\.png": the image cannot be decoded')
def png_with_a_flipped_byte(root):
    data = bytearray((root / "images" / "a.png").read_bytes())
    data[len(data) // 2] ^= 255
    (root / "images" / "a.png").write_bytes(data)


@case(r'a\.png": the image cannot be decoded')
def image_that_claims_to_be_enormous(root):
    header = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    (root / "images" / "a.png").write_bytes(head + struct.pack(">I", zlib.crc32(chunk)))


@case(r'b\.png": the annotation cannot be decoded')
def palette_mask_cut_off(root):
    path = root / "labels" / "b.png"
    mask = Image.fromarray(label(), "P")
    mask.putpalette(bytes(range(9)))
    mask.save(path)
    path.write_bytes(path.read_bytes()[:60])


@case(r'b\.png": the annotation cannot be decoded')
def annotation_of_zero_bytes(root):
    (root / "labels" / "b.png").write_bytes(b"")


@case(r'c\.png" cannot be read \(No such file')
def link_to_nowhere(root):
    (root / "images" / "c.png").unlink()
    os.symlink(root / "gone.png", root / "images" / "c.png")


# Classification.


@case(r"has no folders; data\.root must hold")
def no_class_folders(root):
    shutil.rmtree(root)
    root.mkdir()


@case(r'val/bird" is none of the classes cat, dog', split="val")
def class_that_training_does_not_know(root):
    shutil.rmtree(root)
    classified(root, ["train/cat/a", "train/dog/b", "val/bird/c"])


@case(r'dog" holds no image')
def class_folder_without_images(root):
    shutil.rmtree(root)
    classified(root, ["train/cat/a"])
    (root / "train" / "dog").mkdir()


@case(r'disagree on the class "bird"')
def class_list_that_is_not_the_folders(root):
    shutil.rmtree(root)
    classified(root, ["train/cat/a", "train/dog/b"])
    (root / "classes.txt").write_text("cat\nbird\n")


def test_there_are_enough_kinds():
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_refused_before_training(tmp_path, name):
    function, pattern, settings = CASES[name]
    root = pairs(tmp_path / "data", IDS)
    check_before_training(root, ratios=ALL)  # sound so far
    function(root)
    with pytest.raises(UserError, match=pattern) as error:
        check_before_training(root, **settings)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))


# What fails only while training: the declared policy.

READING = (
    "empty_image",
    "png_cut_off",
    "annotation_cut_off",
    "jpeg_cut_off",
    "png_with_a_flipped_byte",
    "palette_mask_cut_off",
    "link_to_nowhere",
    "value_out_of_range",
    "sizes_that_differ",
)


@pytest.mark.parametrize("name", READING)
def test_stops_or_is_skipped_while_training(tmp_path, name):
    function, _, _ = CASES[name]
    root = pairs(tmp_path / "data", IDS)
    function(root)
    source = Folder(str(root), ratios=ALL).open("train")
    geometry = RandomGeometry(crop=(6, 8), cat_max_ratio=1)
    settings = dict(batch_size=6, geometry=geometry, seed=0)
    iterator = train_batches(source, **settings)
    with pytest.raises(UserError, match=str(root)):
        next(iterator)
    iterator.close()
    iterator = train_batches(source, **settings, max_skipped=1)
    assert len(next(iterator)["image"]) == 6
    assert len(iterator.tally.failed) == 1
    iterator.close()
    batches = eval_batches(source, transform=EvalResize(), batch_size=6, max_skipped=1)
    assert sum(batch["mask"].sum() for batch in batches) == 5


def test_error_within_a_worker_process_reaches_the_user(tmp_path):
    root = pairs(tmp_path / "data", IDS)
    (root / "images" / "a.png").write_bytes(b"")
    source = Folder(str(root), ratios=ALL).open("train")
    geometry = RandomGeometry(crop=(6, 8), cat_max_ratio=1)
    batches = train_batches(source, batch_size=2, geometry=geometry, seed=0, workers=1)
    with pytest.raises(UserError, match=r"a\.png.*cannot be decoded"):
        for _ in range(4):
            next(batches)
    batches.close()
