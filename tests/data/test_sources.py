"""Opening data sets by name, CamVid from a folder, and what is said when something is wrong."""

import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import DATASETS, open_source, scan_labels
from attnseg.data.builders import pairs
from attnseg.data.decode import decode_image, decode_label

INFO = DATASETS["camvid"]


@pytest.fixture
def opened(camvid_root, tmp_path):
    """Opens a split of the fake CamVid as it is at the time of the call."""
    return lambda split="train": open_source(
        "camvid", split, root=str(camvid_root), prepared_dir=str(tmp_path / "tfds")
    )


def test_examples_equal_the_files(camvid_root, opened):
    source = opened("test")
    assert [source[i]["id"] for i in range(len(source))] == ["test0", "test1", "test2"]
    image = cv2.imread(str(camvid_root / "test" / "test1.png"))[..., ::-1]
    label = cv2.imread(str(camvid_root / "testannot" / "test1.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(source[1]["image"], image)
    np.testing.assert_array_equal(source[1]["label"], np.where(label == 11, IGNORE, label))
    assert source[1]["size"].tolist() == list(label.shape)


def test_source_survives_pickling_and_has_a_stable_name(opened):
    source = opened()
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source) == repr(opened())
    np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])


def test_copy_is_reused_until_the_folder_changes(camvid_root, opened, monkeypatch):
    first = opened()
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_examples", None)
        assert repr(opened()) == repr(first)
    label = camvid_root / "trainannot" / "train0.png"
    cv2.imwrite(str(label), np.full((24, 32), 3, np.uint8))
    os.utime(label, ns=(1, 1))
    changed = opened()
    assert repr(changed) != repr(first)
    assert (changed[0]["label"] == 3).all()


def test_interrupted_preparation_leaves_nothing_that_is_used(opened, monkeypatch):
    def broken(config, split):
        yield from list(_examples(config, split))[:1]
        raise KeyboardInterrupt

    _examples = pairs._examples
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_examples", broken)
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert len(opened()) == 5


def test_unknown_names(opened):
    with pytest.raises(UserError, match=r'"camvit".*Did you mean "camvid"'):
        open_source("camvit", "train")
    with pytest.raises(UserError, match='no split "validation"; it has train, val, test'):
        opened("validation")


def test_missing_root():
    with pytest.raises(UserError, match=r"--config\.data\.root=FOLDER.*trainannot"):
        open_source("camvid", "train")


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*not a folder.*trainannot"):
        open_source("camvid", "train", root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no split"):
        open_source("camvid", "train", root=str(tmp_path))


def test_image_without_annotation(camvid_root, opened):
    (camvid_root / "valannot" / "val1.png").unlink()
    with pytest.raises(UserError, match=r"val1\.png.*valannot.*is missing"):
        opened()
    shutil.rmtree(camvid_root / "valannot")
    with pytest.raises(UserError, match="1 more"):
        opened()


def test_value_out_of_range(camvid_root, opened):
    label = np.zeros((24, 32), np.uint8)
    label[0, :3] = 12
    cv2.imwrite(str(camvid_root / "trainannot" / "train2.png"), label)
    with pytest.raises(UserError, match=r"trainannot/train2\.png.*12 \(3 pixels\)"):
        scan_labels(opened(), INFO)


def test_rgb_label(camvid_root, opened):
    label = np.zeros((24, 32, 3), np.uint8)
    cv2.imwrite(str(camvid_root / "trainannot" / "train4.png"), label)
    with pytest.raises(UserError, match=r"trainannot/train4\.png.*3 channels.*convert"):
        opened()[4]


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_damaged_file(camvid_root, opened, folder):
    (camvid_root / folder / "train1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train1\.png.*damaged"):
        opened()[1]


def test_palette_label_is_read_as_indices(tmp_path):
    ids = np.uint8([[0, 1, 2], [9, 200, 255]])
    image = Image.fromarray(ids, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(decode_label((tmp_path / "p.png").read_bytes()), ids)


def test_one_bit_label_is_not_stretched(tmp_path):
    ids = np.eye(5, dtype=bool)
    Image.fromarray(ids).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decode_label((tmp_path / "b.png").read_bytes()), ids)


def test_orientation_tag_does_not_turn_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a right angle
    Image.new("RGB", (8, 4), (250, 0, 0)).save(tmp_path / "t.jpg", exif=exif)
    image = decode_image((tmp_path / "t.jpg").read_bytes())
    assert image.shape == (4, 8, 3)
    assert image[0, 0, 0] > 200 > image[0, 0, 2]
