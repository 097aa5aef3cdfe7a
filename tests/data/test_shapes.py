"""The embedded data set: determinism, preparation, what a scene holds."""

import numpy as np
import pytest

from attnseg.core.types import IGNORE
from attnseg.data import DATASETS, map_labels
from attnseg.data.builders import shapes
from attnseg.data.builders.drawing import CLASSES, Difficulty, draw_scene
from attnseg.data.builders.outlines import OUTLINES, area
from attnseg.data.tfds_source import TfdsSource

TINY = dict(train=4, val=2, test=2)


def build(folder, **settings):
    """Prepares `shapes` in `folder` and returns the prepared folder."""
    config = shapes.shapes_config(**(TINY | settings))
    builder = shapes.Shapes(data_dir=folder, config=config)
    builder.download_and_prepare(file_format="array_record")
    return str(builder.data_dir)


def pixels(folder, split="train"):
    source = TfdsSource(folder, split, DATASETS["shapes"])
    return [(e["image"].tobytes(), e["label"].tobytes()) for e in map(source.__getitem__, range(2))]


def test_pixels_are_a_function_of_seed_and_split(tmp_path):
    once, again = build(tmp_path / "a"), build(tmp_path / "b")
    assert pixels(once) == pixels(again)
    assert pixels(once, "val") != pixels(once, "train")
    assert pixels(once) != pixels(build(tmp_path / "a", seed=1))


def test_second_preparation_reuses_the_first(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.setattr(shapes, "draw_scene", None)
    build(tmp_path)


def test_another_difficulty_is_another_copy(tmp_path):
    assert build(tmp_path) != build(tmp_path, difficulty=Difficulty(shapes=(1, 1)))


def test_example(tmp_path):
    source = TfdsSource(build(tmp_path), "val", DATASETS["shapes"])
    example = source[1]
    assert len(source) == 2
    assert example["image"].shape == (96, 96, 3) and example["image"].dtype == np.uint8
    assert example["label"].shape == (96, 96) and example["label"].dtype == np.uint8
    assert example["id"] == "val_00001"
    assert example["size"].tolist() == [96, 96]


def test_scenes_hold_every_class_and_some_ignored_pixels():
    assert DATASETS["shapes"].classes == CLASSES
    labels = [draw_scene(np.random.default_rng(i), Difficulty())[1] for i in range(40)]
    counts = np.bincount(np.stack(map_all(labels)).ravel(), minlength=256) / np.stack(labels).size
    assert (counts[: len(CLASSES)] > 0.01).all()
    assert 0.5 < counts[0] < 0.9
    assert 0 < counts[IGNORE] < 0.05


def map_all(labels):
    return [map_labels(label, DATASETS["shapes"]) for label in labels]


@pytest.mark.parametrize("name, expected", [("square", 2.0), ("disc", np.pi), ("triangle", 1.299)])
def test_outline_areas(name, expected):
    assert area(OUTLINES[name]) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_fill_the_unit_circle(name):
    radius = np.linalg.norm(OUTLINES[name][0], axis=1)
    assert radius.max() == pytest.approx(1)
