"""The snippets of docs/data.md that bring data into shape, run on small copies."""

import json
import pathlib
import pickle

import cv2
import numpy as np

from attnseg.data import Folder

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


def snippet(heading):
    section = DOCUMENT.read_text(encoding="utf-8").split(f"### {heading}\n")[1]
    return section.split("```python\n")[1].split("```")[0]


def test_cifar10_becomes_class_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    names = ["airplane", "automobile", "bird"]
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    planes = {}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        planes[name] = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
        batch = {b"data": planes[name], b"labels": [2, 0, 1]}
        (batches / name).write_bytes(pickle.dumps(batch))
    exec(snippet("CIFAR-10 without TensorFlow"), {})
    folder = Folder("cifar10")
    assert folder.info().classes == tuple(names)
    train, test = folder.open("train"), folder.open("test")
    assert (len(train), len(test)) == (6, 3)
    example = test[0]  # of the first class: the second image of the batch
    assert example["label"] == 0
    # A row is 1024 red, then green, then blue values.
    expected = planes["test_batch"][1].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(example["image"], expected)


def test_panoptic_coco_becomes_semantic_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    categories = [{"id": 200, "name": "rug-merged"}, {"id": 1, "name": "person"}]
    segments = np.array([[0, 7, 7], [70_000, 70_000, 300]])
    rgb = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1)
    for split in ("train", "val"):
        (tmp_path / "coco" / "images" / split).mkdir(parents=True)
        (tmp_path / "coco" / "annotations" / f"panoptic_{split}").mkdir(parents=True)
        path = tmp_path / "coco" / "annotations" / f"panoptic_{split}" / "1.png"
        cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint8))
        image = str(tmp_path / "coco" / "images" / split / "1.jpg")
        cv2.imwrite(image, np.zeros((2, 3, 3), np.uint8))
        parts = [(7, 1), (70_000, 200), (300, 1)]
        entry = {
            "file_name": "1.png",
            "segments_info": [{"id": i, "category_id": c} for i, c in parts],
        }
        told = {"categories": categories, "annotations": [entry]}
        (path.parents[1] / f"panoptic_{split}.json").write_text(json.dumps(told))
    exec(snippet("COCO's semantic maps"), {})
    folder = Folder("coco")
    assert folder.info().classes == ("person", "rug-merged")
    label = folder.open("train")[0]["label"]
    assert label.tolist() == [[255, 0, 0], [1, 1, 0]]
