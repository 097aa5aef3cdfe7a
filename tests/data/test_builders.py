"""The public benchmarks, prepared from fake copies in their real layouts and read back."""

import shutil

import cv2
import layouts
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import DATASETS, open_source, scan_labels
from attnseg.data.builders.camvid import split_of
from attnseg.data.builders.layouts import LAYOUTS
from attnseg.data.class_names import CAMVID32_COLOURS, COCO_STUFF, COCO_STUFF_RAW
from attnseg.data.masks import colours_to_ids


@pytest.fixture
def opened(tmp_path):
    """Opens a split of a data set whose files lie in ``tmp_path / "root"``."""
    return lambda name, split: open_source(
        name, split, root=str(tmp_path / "root"), prepared_dir=str(tmp_path / "tfds")
    )


def raw_of(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


COUNTS = {  # examples in train, val
    "ade20k": (2, 1),
    "camvid": (1, 1),
    "camvid32": (1, 1),
    "cityscapes": (2, 1),
    "coco_stuff164k": (2, 1),
    "dsb2018": (2, 1),
    "voc2012": (2, 1),
    "voc2012_aug": (3, 1),
}


def test_every_layout_has_a_fake_copy():
    assert LAYOUTS.keys() == layouts.WRITERS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_prepared_and_read_back(tmp_path, opened, name):
    layouts.WRITERS[name](tmp_path / "root")
    info = DATASETS[name]
    for split, count in zip(("train", "val"), COUNTS[name], strict=True):
        source = opened(name, split)
        assert len(source) == count
        example = source[0]
        size = (layouts.HEIGHT, layouts.WIDTH)
        assert example["image"].shape == (*size, 3)
        assert example["label"].shape == size and example["label"].dtype == np.uint8
        # The fake files hold every raw id, so every class must come out, and nothing else.
        report = scan_labels(source, info)
        assert (report.counts > 0).all()
        assert (report.ignored > 0) == (name != "dsb2018")


def first(source):
    return source[0]["id"], source[0]["label"]


@pytest.mark.parametrize(
    "name, split, label",
    [
        ("cityscapes", "val", "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png"),
        ("ade20k", "val", "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"),
        ("coco_stuff164k", "val", "stuffthingmaps/val2017/000000000139.png"),
    ],
)
def test_labels_are_the_files_through_the_map(tmp_path, opened, name, split, label):
    layouts.WRITERS[name](tmp_path / "root")
    raw = raw_of(tmp_path / "root" / label)
    expected = np.vectorize(DATASETS[name].label_map.get)(raw)
    id_, got = first(opened(name, split))
    assert label.rsplit("/", 1)[1].startswith(id_)
    np.testing.assert_array_equal(got, expected)


def test_cityscapes_test_without_annotations_is_left_out(tmp_path, opened):
    layouts.cityscapes(tmp_path / "root")
    with pytest.raises(UserError, match='no split "test"; it has train, val'):
        opened("cityscapes", "test")


def test_cityscapes_with_train_ids_only(tmp_path, opened):
    layouts.cityscapes(tmp_path / "root")
    for path in (tmp_path / "root" / "gtFine" / "train").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(UserError, match=r"aachen.*labelTrainIds\.png.*labelIds\.png.*are needed"):
        opened("cityscapes", "train")


def test_root_may_be_the_folder_itself(tmp_path):
    layouts.ade20k(tmp_path)
    root = str(tmp_path / "ADEChallengeData2016")
    assert len(open_source("ade20k", "train", root=root, prepared_dir=str(tmp_path / "t"))) == 2


def test_voc_has_borders_and_trainval(tmp_path, opened):
    layouts.voc2012(tmp_path / "root")
    source = opened("voc2012", "trainval")
    ids = [source[i]["id"] for i in range(len(source))]
    assert ids == ["2007_000032", "2007_000033", "2007_000039"]
    assert set(np.unique(source[0]["label"])) == {*range(21), IGNORE}


def test_voc_aug_takes_the_augmented_mask_in_training_only(tmp_path, opened):
    layouts.voc2012_aug(tmp_path / "root")
    train, val = opened("voc2012_aug", "train"), opened("voc2012_aug", "val")
    masks = tmp_path / "root" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    assert [train[i]["id"] for i in range(3)] == ["2007_000032", "2007_000039", "2008_000007"]
    np.testing.assert_array_equal(train[0]["label"], raw_of(masks / "2007_000032.png"))
    assert (train[1]["label"] == IGNORE).any()  # not in SBD: the original, with its borders
    assert (val[0]["label"] == IGNORE).any()


def test_coco_stuff_classes():
    assert len(COCO_STUFF) == len(set(COCO_STUFF)) == len(COCO_STUFF_RAW) == 171
    info = DATASETS["coco_stuff164k"]
    names = {raw: info.classes[train] for raw, train in info.label_map.items() if train != IGNORE}
    # From labels.txt of the authors, whose numbers are one more than the files'.
    expected = {0: "person", 12: "stop sign", 26: "backpack", 43: "bottle", 83: "book"}
    expected |= {89: "toothbrush", 91: "banner", 156: "sky-other", 181: "wood"}
    assert expected.items() <= names.items()


def test_coco_stuff_as_mmsegmentation_writes_it(tmp_path, opened):
    layouts.coco_stuff164k_train_ids(tmp_path / "root")
    label = tmp_path / "root" / "annotations" / "train2017" / "000000000009_labelTrainIds.png"
    np.testing.assert_array_equal(first(opened("coco_stuff164k", "train"))[1], raw_of(label))


def test_coco_stuff_train_id_out_of_range(tmp_path, opened):
    layouts.coco_stuff164k_train_ids(tmp_path / "root")
    label = tmp_path / "root" / "annotations" / "train2017" / "000000000009_labelTrainIds.png"
    cv2.imwrite(str(label), np.full((24, 32), 171, np.uint8))
    with pytest.raises(UserError, match=r"000000000009_labelTrainIds\.png.*171 in 768 pixels"):
        opened("coco_stuff164k", "train")


@pytest.mark.parametrize("writer", [layouts.camvid32, layouts.camvid32_split])
def test_camvid32_colours_become_classes(tmp_path, opened, writer):
    writer(tmp_path / "root")
    (label,) = (tmp_path / "root").rglob("Seq05VD_f00000_L.png")
    rgb = cv2.imread(str(label))[..., ::-1]
    id_, got = first(opened("camvid32", "test"))
    info = DATASETS["camvid32"]
    assert id_ == "Seq05VD_f00000" and info.num_classes == 31 and "void" not in info.classes
    shown = np.array([*info.palette] + [(0, 0, 0)] * (256 - 31))[got]
    np.testing.assert_array_equal(shown, rgb)  # each class in its own colour, void in black


def test_unknown_colour_names_file_colour_and_count(tmp_path, opened):
    layouts.camvid32(tmp_path / "root")
    label = tmp_path / "root" / "LabeledApproved_full" / "0001TP_006690_L.png"
    bgr = cv2.imread(str(label))
    bgr[3, 4:7] = (3, 2, 1)
    cv2.imwrite(str(label), bgr)
    with pytest.raises(UserError, match=r"0001TP_006690_L\.png.*\(1, 2, 3\) in 3 pixels"):
        opened("camvid32", "train")


def test_split_of_camvid_frames():
    names = ("0001TP_008520", "0001TP_008550", "0016E5_07957", "0016E5_08159", "0016E5_08400")
    assert [split_of(name) for name in names] == ["train", "test", "train", "val", "train"]
    with pytest.raises(UserError, match="no frame of CamVid"):
        split_of("frame_1")


def test_colours_to_ids():
    ids = np.random.default_rng(0).integers(0, 32, (5, 7))
    got = colours_to_ids(np.uint8(CAMVID32_COLOURS)[ids], CAMVID32_COLOURS)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, ids)
    with pytest.raises(UserError, match="two classes"):
        colours_to_ids(np.zeros((1, 1, 3), np.uint8), [(0, 0, 0), (0, 0, 0)])
    with pytest.raises(UserError, match="8-bit RGB"):
        colours_to_ids(np.zeros((2, 2), np.uint8), CAMVID32_COLOURS)


def test_nuclei_are_one_class(tmp_path, opened):
    layouts.dsb2018(tmp_path / "root")
    raw = raw_of(tmp_path / "root" / "labels" / "0d2bf916.png")
    assert raw.dtype == np.uint16 and 256 in raw  # 256 would be background in 8 bits
    np.testing.assert_array_equal(first(opened("dsb2018", "val"))[1], raw > 0)


MISSING = [  # data set, what is taken away, what the message names
    ("ade20k", "ADEChallengeData2016/annotations/training/ADE_train_00000002.png", "is missing"),
    ("ade20k", "ADEChallengeData2016/images/validation", "images/validation.*is missing"),
    ("camvid", "valannot/0016E5_07959.png", "valannot.*is missing"),
    ("camvid32", "LabeledApproved_full/0001TP_006690_L.png", "0001TP_006690_L.*is missing"),
    ("cityscapes", "leftImg8bit/val", "leftImg8bit/val.*is missing"),
    ("cityscapes", "gtFine/val", "munster_000000_000019_gtFine_labelIds.*is missing"),
    ("coco_stuff164k", "stuffthingmaps", "stuffthingmaps/train2017/000000000009.*1 more"),
    ("dsb2018", "val.txt", "val.txt.*is missing"),
    ("dsb2018", "images/0280fa8f.png", "0280fa8f.*is missing"),
    ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "val.txt.*is missing"),
    ("voc2012", "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", "000033.*is missing"),
    ("voc2012_aug", "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt", "train_aug.*missing"),
]


@pytest.mark.parametrize("name, path, named", MISSING)
def test_what_is_missing_is_named_with_the_layout(tmp_path, opened, name, path, named):
    layouts.WRITERS[name](tmp_path / "root")
    victim = tmp_path / "root" / path
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(UserError, match=named) as caught:
        opened(name, "train")
    message = str(caught.value)
    assert message.endswith(f"expected is {LAYOUTS[name].expected}.") and "\n" not in message
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_root_must_be_named_and_be_a_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"--config\.data\.root=FOLDER"):
        open_source(name, "train")
    with pytest.raises(UserError, match="not a folder; expected is"):
        open_source(name, "train", root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="missing|no split"):
        open_source(name, "train", root=str(tmp_path))
