"""The table of data sets and the one place where raw ids become train ids."""

import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import DATASETS, DatasetInfo, colour_map, map_labels


@pytest.mark.parametrize("name, classes", [("shapes", 8), ("camvid", 11), ("ade20k", 150)])
def test_map_is_onto_the_classes(name, classes):
    info = DATASETS[name]
    assert info.num_classes == classes == len(set(info.classes)) == len(set(info.palette))
    assert set(info.label_map.values()) == {*range(classes), IGNORE}


def test_cityscapes_has_34_raw_and_19_train_ids():
    info = DATASETS["cityscapes"]
    assert sorted(info.label_map) == list(range(34))
    raw = np.array([[7, 8, 26], [33, 0, 29]], np.uint8)
    assert map_labels(raw, info).tolist() == [[0, 1, 13], [18, IGNORE, IGNORE]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_map_labels(dtype):
    raw = np.array([[0, 1, 150]], dtype)
    mapped = map_labels(raw, DATASETS["ade20k"])
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[IGNORE, 0, 149]]


@pytest.mark.parametrize("raw", [np.uint8([[12, 3], [12, 255]]), np.int32([[12, 3], [12, -1]])])
def test_unknown_value_is_named_and_counted(raw):
    with pytest.raises(UserError, match=r"12 \(2 pixels\).*camvid.*0-11"):
        map_labels(raw, DATASETS["camvid"])


def test_float_labels_are_refused():
    with pytest.raises(UserError, match="float"):
        map_labels(np.zeros((2, 2)), DATASETS["camvid"])


def test_contradictory_info_is_refused():
    parts = dict(name="x", task="segmentation", citation="", licence="", classes=("a", "b"))
    with pytest.raises(UserError, match="1 colours for 2 classes"):
        DatasetInfo(palette=((0, 0, 0),), label_map={}, **parts)
    with pytest.raises(UserError, match=r"outside 0\.\.1"):
        DatasetInfo(palette=colour_map(2), label_map={0: 2}, **parts)


def test_colour_map_is_that_of_voc():
    assert colour_map(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
