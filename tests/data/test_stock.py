"""TFDS's own data sets: copies that are there open without TensorFlow; what is said without one."""

import importlib.util
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from attnseg.core.errors import UserError
from attnseg.data import DATASETS, open_source


class StockCopy(tfds.core.GeneratorBasedBuilder):
    """What TFDS's own builders write, with the features that matter."""

    VERSION = tfds.core.Version("4.0.0")
    FEATURES = {}
    RECORDS = {}

    def _info(self):
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: enumerate(records) for split, records in self.RECORDS.items()}

    def _generate_examples(self):
        raise NotImplementedError


def encoded(array):
    return cv2.imencode(".png", array)[1].tobytes()


IMAGE = encoded(np.full((8, 8, 3), 7, np.uint8))


@pytest.fixture
def stock_copy(tmp_path, monkeypatch):
    """Puts a prepared copy of a TFDS data set into ``tmp_path / "tfds"``."""

    def write(name, features, records):
        monkeypatch.setattr(StockCopy, "FEATURES", features)
        monkeypatch.setattr(StockCopy, "RECORDS", records)
        builder = StockCopy(data_dir=tmp_path / "made")
        builder.download_and_prepare(file_format="array_record")
        shutil.move(str(builder.data_dir), tmp_path / "tfds" / name / "4.0.0")

    return write


def open_stock(tmp_path, name, split, **settings):
    return open_source(name, split, prepared_dir=str(tmp_path / "tfds"), **settings)


def test_prepared_cifar10_opens_without_tensorflow(tmp_path, stock_copy):
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    records = [{"id": f"test_{i}", "image": IMAGE, "label": i} for i in (9, 3)]
    stock_copy("cifar10", features, {"train": records[:1], "test": records})
    source = open_stock(tmp_path, "cifar10", "val")
    example = source[1]
    assert (len(source), example["id"]) == (2, "test_3")
    assert example["label"].shape == () and example["label"].dtype == np.int32
    assert example["label"] == 3
    assert (example["image"] == 7).all()


def test_prepared_imagenet_keeps_labels_above_255(tmp_path, stock_copy):
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=1000),
    }
    record = {"file_name": "ILSVRC2012_val_00000001.JPEG", "image": IMAGE, "label": 999}
    stock_copy("imagenet2012", features, {"validation": [record]})
    example = open_stock(tmp_path, "imagenet2012", "val")[0]
    assert example["label"] == 999 and example["id"] == record["file_name"]
    with pytest.raises(UserError, match='no split "test"; it has train, val'):
        open_stock(tmp_path, "imagenet2012", "test")


def test_prepared_pets_are_read_as_trimaps(tmp_path, stock_copy):
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=37),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
    }
    trimap = np.uint8([[1, 2], [3, 1]])
    record = {"file_name": "Abyssinian_1.jpg", "image": IMAGE, "label": 0}
    record["segmentation_mask"] = encoded(trimap)
    stock_copy("oxford_iiit_pet", features, {"train": [record]})
    example = open_stock(tmp_path, "oxford_iiit_pet", "train")[0]
    assert example["label"].tolist() == [[0, 1], [2, 0]]
    assert DATASETS["oxford_iiit_pet"].classes == ("pet", "background", "border")


def test_stock_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("cifar10", "imagenet2012", "oxford_iiit_pet"):
        with pytest.raises(UserError, match=rf"{name}.*TensorFlow.*attnseg\[prepare\]") as caught:
            open_stock(tmp_path, name, "train")
        # Pets have masks: class folders are no way round.
        assert ("data.name=folder" in str(caught.value)) == (name != "oxford_iiit_pet")


def test_stock_of_which_the_archives_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=r"root=FOLDER.*ILSVRC2012_img_train\.tar"):
        open_stock(tmp_path, "imagenet2012", "train")


def test_stock_in_another_format(tmp_path, stock_copy):
    stock_copy("cifar10", {"image": tfds.features.Image()}, {"train": [{"image": IMAGE}]})
    kept = tmp_path / "tfds" / "cifar10" / "4.0.0" / "dataset_info.json"
    kept.write_text(kept.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="not in the ArrayRecord format"):
        open_stock(tmp_path, "cifar10", "train")
