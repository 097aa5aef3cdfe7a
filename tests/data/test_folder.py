"""A folder of one's own: pairs, splits, class lists and the ways masks and images are stored."""

import json
import pickle
import shutil

import numpy as np
import pytest
from own_folders import SIZE, classified, image, label, pairs, write
from PIL import Image

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import Folder, scan_labels
from attnseg.data.class_list import read_class_list

ALL = (1.0, 0.0, 0.0)


def ids(root, split="train", **settings):
    source = Folder(str(root), **settings).open(split)
    return [source[i]["id"] for i in range(len(source))]


def only(root, **settings):
    """The one example of a folder."""
    source = Folder(str(root), ratios=ALL, **settings).open("train")
    assert len(source) == 1
    return source[0]


def test_examples_equal_the_files(tmp_path):
    pairs(tmp_path, ["b/x", "a", "b/c/y"])
    folder = Folder(str(tmp_path), ratios=ALL)
    source = pickle.loads(pickle.dumps(folder.open("train")))
    assert folder.info().classes == ("road", "car", "tree")
    assert [source[i]["id"] for i in range(3)] == ["a", "b/c/y", "b/x"]
    np.testing.assert_array_equal(source[2]["image"], image(0))
    np.testing.assert_array_equal(source[2]["label"], label(0))
    assert source[0]["size"].tolist() == list(SIZE)


def test_suffixes(tmp_path):
    write(tmp_path / "images" / "u" / "u_1_leftImg8bit.jpg", image())
    write(tmp_path / "labels" / "u" / "u_1_gtFine_labelIds.png", label())
    write(tmp_path / "labels" / "u" / "u_1_gtFine_color.png", image())
    (tmp_path / "labels" / "u" / "._hidden_gtFine_labelIds.png").write_bytes(b"x")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "classes.txt").write_text("road\ncar\ntree")
    for end in (".png", ""):
        settings = dict(image_suffix="_leftImg8bit", label_suffix=f"_gtFine_labelIds{end}")
        assert only(tmp_path, **settings)["id"] == "u/u_1"


def test_split_files(tmp_path):
    pairs(tmp_path, ["a", "b/c", "d"])
    (tmp_path / "train.txt").write_text("images/d.png\nb\\c\n\n")
    (tmp_path / "val.txt").write_text("a\n")
    assert ids(tmp_path) == ["b/c", "d"]
    assert ids(tmp_path, "val") == ["a"]
    with pytest.raises(UserError, match=r'no split "test"; it has train, val\.'):
        ids(tmp_path, "test")


def test_split_folders(tmp_path):
    pairs(tmp_path, ["train/a", "train/b", "val/a"])
    assert ids(tmp_path) == ["train/a", "train/b"]
    assert ids(tmp_path, "val") == ["val/a"]


def test_shares_do_not_move_when_files_come(tmp_path):
    pairs(tmp_path, [f"i{n}" for n in range(60)])
    before = {split: set(ids(tmp_path, split)) for split in ("train", "val", "test")}
    assert len(set.union(*before.values())) == sum(map(len, before.values())) == 60
    assert 40 <= len(before["train"]) <= 56
    pairs(tmp_path, [f"j{n}" for n in range(20)])
    after = {split: set(ids(tmp_path, split)) for split in before}
    assert all(before[split] < after[split] or not before[split] for split in before)
    assert sum(map(len, after.values())) == 80


def test_class_list(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text('traffic light #ff0000 3\n"zone 30" 1 2 3 7,9\n\nsky 20-22\nignore #ffffff 0\n')
    found = read_class_list(path)
    assert found.info.classes == ("traffic light", "zone 30", "sky")
    expected = {0: 255, 3: 0, 7: 1, 9: 1, 20: 2, 21: 2, 22: 2, 255: 255}
    assert found.info.label_map == expected
    assert found.info.palette[:2] == ((255, 0, 0), (1, 2, 3))
    assert len(set(found.info.palette)) == 3
    assert dict(zip(found.colours, found.colour_ids, strict=True)) == {
        (255, 0, 0): 3,
        (1, 2, 3): 7,
        (255, 255, 255): 0,
    }
    other = tmp_path / "classes.json"
    items = [
        {"name": "traffic light", "colour": "#ff0000", "ids": 3},
        {"name": "zone 30", "colour": [1, 2, 3], "ids": [7, 9]},
        {"name": "sky", "ids": "20-22"},
        {"name": "ignore", "colour": "#ffffff", "ids": 0},
    ]
    other.write_text(json.dumps(items))
    assert read_class_list(other) == found
    other.write_text('["a", "b"]')
    assert read_class_list(other).info.label_map == {0: 0, 1: 1, 255: 255}


def test_class_255_is_a_class_when_declared(tmp_path):
    pairs(tmp_path, ["a"], "background\ncell 255")
    write(tmp_path / "labels" / "a.png", label(classes=2) * 255)
    np.testing.assert_array_equal(only(tmp_path)["label"], label(classes=2))
    assert (
        scan_labels(
            Folder(str(tmp_path), ratios=ALL).open("train"), Folder(str(tmp_path)).info()
        ).ignored
        == 0
    )


@pytest.mark.parametrize("alpha", [False, True])
def test_rgb_masks(tmp_path, alpha):
    pairs(tmp_path, ["a"], "road #804080\ncar 0 0 142 5\nignore #000000")
    colours = np.uint8([(128, 64, 128), (0, 0, 142), (0, 0, 0)])[label()]
    if alpha:
        colours = np.dstack([colours, np.full(SIZE, 255, np.uint8)])
    Image.fromarray(colours).save(tmp_path / "labels" / "a.png")
    np.testing.assert_array_equal(only(tmp_path)["label"], np.uint8([0, 1, IGNORE])[label()])


def test_palette_masks_are_indices_whatever_their_colours(tmp_path):
    pairs(tmp_path, ["a"], "road #000001\ncar #000002\ntree #000003")
    mask = Image.fromarray(label(), "P")
    mask.putpalette(bytes(range(9)))
    mask.save(tmp_path / "labels" / "a.png")
    np.testing.assert_array_equal(only(tmp_path)["label"], label())


def test_instance_ids_as_one_class(tmp_path):
    pairs(tmp_path, ["a"], "background\nnucleus 1-65535")
    ids = label().astype(np.uint16) * 20_000
    Image.fromarray(ids).save(tmp_path / "labels" / "a.png")
    np.testing.assert_array_equal(only(tmp_path)["label"], label() > 0)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a right angle
    Image.new("RGB", SIZE[::-1], (200, 100, 50)).save(path, exif=exif, quality=100)


STORED = {
    "grey": lambda path: Image.new("L", SIZE[::-1], 100).save(path),
    "grey16": lambda path: Image.fromarray(np.full(SIZE, 100 * 256 + 9, np.uint16)).save(path),
    "palette": lambda path: Image.new("RGB", SIZE[::-1], (200, 100, 50)).quantize(4).save(path),
    "alpha": lambda path: Image.new("RGBA", SIZE[::-1], (200, 100, 50, 0)).save(path),
    "cmyk.jpg": lambda path: Image.new("CMYK", SIZE[::-1], (55, 155, 205, 0)).save(path),
    "turned.jpg": turned,
}


@pytest.mark.parametrize("kind", STORED)
def test_images_become_rgb_as_they_are_stored(tmp_path, kind):
    pairs(tmp_path, ["a"])
    (tmp_path / "images" / "a.png").unlink()
    STORED[kind](tmp_path / "images" / ("a.jpg" if kind.endswith("jpg") else "a.png"))
    found = only(tmp_path)["image"]
    assert found.shape == (*SIZE, 3) and found.dtype == np.uint8
    expected = (100, 100, 100) if kind.startswith("grey") else (200, 100, 50)
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_class_folders(tmp_path):
    classified(tmp_path, ["train/cat/a", "train/dog/x/b", "train/dog/c", "val/dog/d"])
    folder = Folder(str(tmp_path))
    info = folder.info()
    assert (info.task, info.classes) == ("classification", ("cat", "dog"))
    source = folder.open("train")
    assert [source[i]["id"] for i in range(3)] == ["cat/a", "dog/c", "dog/x/b"]
    assert [int(source[i]["label"]) for i in range(3)] == [0, 1, 1]
    assert source[0]["label"].shape == () and source[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(source[2]["image"], image(1))
    assert int(folder.open("val")[0]["label"]) == 1
    report = scan_labels(source, info)
    assert report.counts.tolist() == [1, 2] and "images" in report.table()
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert Folder(str(tmp_path)).info().classes == ("dog", "cat")


def test_class_folders_by_shares(tmp_path):
    names = [f"{kind}/{n}" for kind in ("cat", "dog") for n in range(30)]
    classified(tmp_path, names)
    found = [ids(tmp_path, split, ratios=(0.5, 0.25, 0.25)) for split in ("train", "val", "test")]
    assert sorted(name for part in found for name in part) == sorted(names) and all(found)


def test_name_is_that_of_the_data_wherever_they_lie(tmp_path):
    pairs(tmp_path / "here", ["a", "b"])
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # keeps the times of change
    opened = [Folder(str(tmp_path / p), ratios=ALL).open("train") for p in ("here", "there")]
    assert repr(opened[0]) == repr(opened[1])
    write(tmp_path / "there" / "labels" / "b.png", label(9, (3, 3)))
    assert repr(Folder(str(tmp_path / "there"), ratios=ALL).open("train")) != repr(opened[0])
