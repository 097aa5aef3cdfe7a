"""`launch/show.py batch --time`: every stage, and rates that fit the clock."""

import re
import time

import numpy as np
import pytest
import tiny
from own_folders import classified, image, label, pairs, write

from attnseg.core.errors import UserError
from attnseg.data import RandomGeometry
from attnseg.data.timing import HOST_STAGES, time_loader, time_stages
from attnseg.recipe import load_config
from attnseg.recipe.timing import describe_speed


class Slow:
    """A source whose stages last as long as told; example 3 cannot be read."""

    def __init__(self, read, decode, broken=None):
        self._read, self._decode, self._broken = read, decode, broken

    def __len__(self):
        return 4

    def read(self, index):
        time.sleep(self._read)
        if index == self._broken:
            raise UserError("example 3 is broken.")
        return index

    def decode(self, index, stored):
        time.sleep(self._decode)
        return {"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8)}


GEOMETRY = RandomGeometry(crop=(4, 4), cat_max_ratio=1)


def test_each_stage_gets_its_own_time():
    settings = dict(geometry=GEOMETRY, batch_size=2, batches=3, seed=0)
    stages = time_stages(Slow(0.02, 0.05), **settings)
    assert tuple(stages.seconds) == HOST_STAGES and stages.images == 6 and stages.left_out == 0
    assert stages.seconds["read"] >= 6 * 0.02 and stages.seconds["decode"] >= 6 * 0.05
    assert all(seconds > 0 for seconds in stages.seconds.values())


def test_unreadable_records_follow_the_policy():
    settings = dict(geometry=GEOMETRY, batch_size=2, batches=4, seed=0)
    with pytest.raises(UserError, match="example 3 is broken"):
        time_stages(Slow(0, 0, broken=3), **settings)
    stages = time_stages(Slow(0, 0, broken=3), **settings, max_skipped=5)
    assert stages.images == 8 and stages.left_out >= 2


def test_the_loader_is_clocked_after_warming_up():
    taken = []

    def stream():
        while True:
            time.sleep(0.01)
            taken.append(len(taken))
            yield taken[-1]

    assert time_loader(stream(), warm=3, batches=4) >= 4 * 0.01
    assert len(taken) == 7


def table(text):
    """Milliseconds an image by stage."""
    rows = re.findall(r"^(.+?)  +(host|device) +([\d.]+)", text, re.MULTILINE)
    return {name: (place, float(value)) for name, place, value in rows}


def test_segmentation_with_workers_and_the_decoded_store(tmp_path):
    root = pairs(tmp_path / "data", ("a", "b", "c", "d"))
    for name in ("a", "b", "c", "d"):
        write(root / "images" / f"{name}.png", image(size=(64, 80)))
        write(root / "labels" / f"{name}.png", label(size=(64, 80)))
    config = tiny.config(
        data__name="folder",
        data__root=str(root),
        data__split_ratios=(1.0, 0.0, 0.0),
        data__prepared=str(tmp_path / "kept"),
        data__cache="decoded",
        data__crop=(32, 32),
        data__batch_size=4,
        data__workers=1,
        data__prefetch=1,
    )
    text = describe_speed(config, batches=2)
    stages = table(text)
    assert [*stages] == [*HOST_STAGES, "transfer", "augment and normalise"]
    assert all(value >= 0 for _, value in stages.values())  # as printed, to the microsecond
    total = float(re.search(r"host, all stages +([\d.]+)", text)[1])
    host = [value for place, value in stages.values() if place == "host"]
    assert total == pytest.approx(sum(host), abs=0.01)
    loader = re.search(r"loader: ([\d.]+) images/s with 1 worker process, ([\d.]+) a worker", text)
    assert float(loader[1]) == float(loader[2]) > 0
    assert "decoded examples in" in text and "4 of 4" in text


def test_classification_without_workers(tmp_path):
    root = classified(tmp_path, [f"train/{kind}/{i}" for kind in ("cat", "dog") for i in range(4)])
    changes = {"data.name": "folder", "data.root": str(root), "data.batch_size": 4}
    changes |= {"data.workers": 0, "data.prefetch": 2}
    path = f"{tiny.ROOT}/configs/conv2former_n_cifar.py:cifar10"
    text = describe_speed(load_config(path, changes), batches=1)
    assert [*table(text)] == [*HOST_STAGES, "transfer", "augment and normalise"]
    assert "images/s with 2 threads of this process" in text
    with pytest.raises(UserError, match="is for masks; folder is a classification"):
        describe_speed(load_config(path, {**changes, "data.cache": "decoded"}))
    with pytest.raises(UserError, match="use at least 1"):
        describe_speed(load_config(path, changes), batches=0)
