"""``launch/visualize.py`` and ``launch/resolution.py`` on tiny networks."""

import json

import numpy as np
import own_folders
import program
import pytest
import tiny
from PIL import Image
from saved_run import random_variables, save_run

from attnseg.recipe import mistakes, resolution

CLASSES = "road #0a141e\ncar #c80000\ntree #00c800\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder of four validation images."""
    place = tmp_path_factory.mktemp("run")
    names = ["train/a", *(f"val/{i}" for i in range(4))]
    root = own_folders.pairs(place / "data", names, CLASSES)
    config = tiny.config(data__name="folder", data__root=str(root), eval__resize=(64, 96))
    save_run(place / "work", config, {1: (random_variables(config), {"miou": 0.5})})
    return place / "work", config, root


def test_attention_of_two_pixels(run, tmp_path, capsys):
    image = next((run[2] / "images" / "val").iterdir())
    output = tmp_path / "attention.png"
    program.run(
        "visualize", "attention", f"--workdir={run[0]}", f"--image={image}", "--size=64,96",
        "--pixel=0,0", "--pixel=63,95", f"--output={output}",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "y=63 x=95: stage1 block1, stage2 block1 head1, " in told
    assert Image.open(output).width > 400
    arguments = ("visualize", "attention", f"--workdir={run[0]}", "--size=64,96")
    assert "pixel (y=64, x=0) is not" in program.refused(capsys, *arguments, "--pixel=64,0")
    assert "no map fits" in program.refused(capsys, *arguments, "--layers=stage9")
    assert "no regular expression" in program.refused(capsys, *arguments, "--layers=(")
    assert "has 4 examples in val" in program.refused(capsys, *arguments, "--image=val:4")
    assert 'no image "lost.png"' in program.refused(capsys, *arguments, "--image=lost.png")
    what = ("visualize", "bases", f"--workdir={run[0]}", "--size=64,96")
    assert "has neither bases nor gates" in program.refused(capsys, *what)
    assert "give --workdir=DIR" in program.refused(capsys, "visualize", "field")
    assert "--workdir once" in program.refused(capsys, "visualize", "errors")


def test_fields_of_a_run_on_noise(run, tmp_path):
    output = tmp_path / "field.png"
    program.run(
        "visualize", "field", f"--workdir={run[0]}", "--image=noise", "--size=64,64",
        f"--output={output}",
    )  # fmt: skip
    sides = json.loads(output.with_suffix(".json").read_text())["sides"]["segformer_b0"]
    assert list(sides) == ["stage1", "stage2", "stage3", "stage4", "head"]
    for stage in sides.values():
        assert list(stage.values()) == sorted(stage.values())
    assert Image.open(output).width > 400


def test_errors_of_a_run(run, tmp_path, capsys):
    output = tmp_path / "errors"
    program.run("visualize", "errors", f"--workdir={run[0]}", f"--output={output}", "--count=2")
    assert {p.name for p in output.iterdir()} == {
        "worst_0.png", "worst_1.png", "confused.png", "errors.json"
    }  # fmt: skip
    found = json.loads((output / "errors.json").read_text())
    scores = [score for _, score, _ in found["images"]]
    assert len(scores) == 4 and scores == sorted(scores)
    told = capsys.readouterr().out
    assert f"{found['images'][0][0]}: mIoU" in told
    label, prediction, pixels, share = found["confused"][0]
    assert label != prediction and pixels > 0 and 0 < share <= 1
    assert f"{label}" in told and "taken for" in told


def test_pairs_by_hand():
    matrix = np.array([[1, 1, 0], [0, 1, 2], [0, 0, 0]])
    pairs = mistakes.confused_pairs(matrix, ("a", "b", "c"), 5)
    assert [tuple(pair) for pair in pairs] == [("b", "c", 2, 2 / 3), ("a", "b", 1, 0.5)]
    assert mistakes.confused_pairs(matrix, ("a", "b", "c"), 1) == pairs[:1]


def test_resolution_evaluates_both_variants_at_every_size(tmp_path, monkeypatch, capsys):
    """What is trained and evaluated; `test_learned_positions...` and the slow test run networks."""
    trained, asked = [], []

    def train(config, folder, say):
        trained.append((config.model.backbone.position, config.train.steps, folder.name))

    def evaluate(folder, *, split, checkpoint, changes, output, say):
        asked.append((folder.name, changes["eval.resize"], checkpoint))
        return {f"{split}/miou": 0.5 + 0.001 * len(asked)}

    monkeypatch.setattr(resolution, "train", train)
    monkeypatch.setattr(resolution, "evaluate", evaluate)
    config = f"--config={tiny.CONFIG}"
    crop = "--config.data.crop=(64, 96)"
    workdir = f"--workdir={tmp_path}"
    program.run("resolution", workdir, config, crop, "--sizes=32,64", "--config.train.steps=7")
    assert trained == [("mix_ffn", 7, "mix_ffn"), ("learned", 7, "learned")]
    assert asked == [
        (variant, size, "latest")
        for variant in resolution.VARIANTS
        for size in ((32, 48), (64, 96))
    ]
    result = json.loads((tmp_path / "resolution.json").read_text())
    assert result["miou"] == {"mix_ffn": [0.501, 0.502], "learned": [0.503, 0.504]}
    told = capsys.readouterr().out.splitlines()
    assert told[-5].split() == ["mIoU", "at", "32x48", "64x96"]
    assert told[-2].split() == ["learned", "positions", "50.30", "50.40"]
    assert (tmp_path / "resolution.png").stat().st_size > 5000
    assert "16 is too small" in program.refused(capsys, "resolution", workdir, config, "--sizes=16")
    other = f"--config={tiny.ROOT / 'configs' / 'segnext_t.py'}"
    assert "has no backbone MiT" in program.refused(capsys, "resolution", workdir, other)


@pytest.mark.slow
def test_resolution_end_to_end(tmp_path):
    changes = {**tiny.CHANGES, "train.steps": 2, "eval.overlays": 0}
    result = resolution.experiment(
        tmp_path, tiny.CONFIG, sizes=(32, 64), changes=changes, say=lambda _: None
    )
    assert all(0 <= value <= 1 for values in result["miou"].values() for value in values)
