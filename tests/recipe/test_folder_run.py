"""A run on a folder of one's own with files that cannot be read, killed and resumed."""

import json

import pytest
import tiny
from own_folders import image, label, pairs, write

import attnseg
from attnseg.training.checkpoint import check_labels

IDS = [f"{split}/{n}" for split in ("train", "val") for n in range(5)]
BROKEN = ("train/1", "train/3", "val/0")


class Killed(Exception):
    pass


@pytest.fixture
def root(tmp_path):
    root = pairs(tmp_path / "data", IDS)
    for seed, name in enumerate(IDS):
        write(root / "images" / f"{name}.png", image(seed, (32, 32)))
        write(root / "labels" / f"{name}.png", label(seed, (32, 32)))
    for name in BROKEN:
        (root / "images" / f"{name}.png").write_bytes(b"no image")
    return root


def config(root, **changes):
    return tiny.config(
        data__name="folder",
        data__root=str(root),
        data__batch_size=4,
        train__steps=4,
        checkpoint__every=1,
        eval__every=4,
        eval__overlays=5,
        log__every=1,
        **changes,
    )


def skipped(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["train/skipped"] for line in lines if "train/skipped" in line]


def test_skipping_is_the_same_after_a_resume(root, tmp_path):
    def die(line):
        said.append(line)
        if line.startswith("step 3/"):
            raise Killed

    said = []
    chosen = config(root, data__on_error="skip", data__max_skipped=2)
    scores = attnseg.train(chosen, tmp_path / "whole", say=lambda _: None)
    with pytest.raises(Killed):
        attnseg.train(chosen, tmp_path / "cut", say=die)
    assert attnseg.train(chosen, tmp_path / "cut", say=lambda _: None) == scores
    found = skipped(tmp_path / "whole")
    assert found == skipped(tmp_path / "cut") == sorted(found) and found[-1] == 2
    assert sum("left out" in line for line in "\n".join(said).splitlines()) == 3

    # The labels a checkpoint was trained with stay what its output means.
    (root / "classes.txt").write_text("road\ntree\ncar\n")
    with pytest.raises(attnseg.UserError, match='class 1 = "car", which is "tree" now; restore'):
        attnseg.evaluate(tmp_path / "whole", say=lambda _: None)
    with pytest.raises(attnseg.UserError, match='class 1 = "car", which is "tree" now; restore'):
        attnseg.train(chosen, tmp_path / "whole", say=lambda _: None)
    (root / "classes.txt").write_text("road\ncar\ntree 2,7\n")
    with pytest.raises(attnseg.UserError, match="raw id 7 -> refused, it is 2 now"):
        attnseg.train(chosen, tmp_path / "whole", say=lambda _: None)


def test_evaluation_takes_other_raw_ids_but_no_other_classes():
    saved = {"classes": ["road", "car"], "label_map": {"0": 0, "1": 1}}
    moved = saved | {"label_map": {"0": 0, "7": 1}}
    check_labels(saved, saved, "the run")
    check_labels(saved, moved, "the run", ("classes",))
    with pytest.raises(attnseg.UserError, match="raw id 1 -> 1, it is refused now"):
        check_labels(saved, moved, "the run")
    with pytest.raises(attnseg.UserError, match="2 classes, there are 3 now"):
        check_labels(saved, saved | {"classes": ["road", "car", "tree"]}, "the run", ("classes",))


def test_too_many_are_refused_before_training(root, tmp_path):
    with pytest.raises(attnseg.UserError, match=r"train/1\.png.*cannot be decoded.*1 more"):
        attnseg.train(config(root), tmp_path / "run", say=lambda _: None)
    one = config(root, data__on_error="skip", data__max_skipped=1)
    with pytest.raises(attnseg.UserError, match=r"train/1\.png.*cannot be decoded"):
        attnseg.train(one, tmp_path / "run", say=lambda _: None)
    assert not (tmp_path / "run" / "checkpoints").exists()
