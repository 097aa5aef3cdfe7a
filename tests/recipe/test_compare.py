"""Runs side by side, from what they write down."""

import json

import numpy as np
import program
import pytest
import tiny
from PIL import Image
from saved_run import random_variables, save_run

from attnseg.core.tree import named_leaves
from attnseg.recipe.compare import compare


def fabricate(folder, *, model="segformer_b0", data="shapes", split="val", shift=0.0, seconds=None):
    """The files of a run of 40 steps."""
    folder.mkdir(parents=True)
    config = {"model": {"name": model}, "data": {"name": data}, "eval": {"split": split}}
    (folder / "config.json").write_text(json.dumps(config))
    records = []
    for step in range(10, 41, 10):
        loss = {"train/loss": 2 / step + shift, "train/images_per_second": float(step)}
        records.append({"step": step, "split": "train", **loss})
    name = "top1" if model.startswith("resnet") else "miou"
    for step, score in ((20, 0.7), (30, None), (40, 0.5)):
        value = None if score is None else score - shift
        records.append({"step": step, "split": split, f"{split}/{name}": value})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if seconds:
        (folder / "results.json").write_text(json.dumps({"seconds": seconds}))
    return folder


def test_the_table_and_the_picture(tmp_path, capsys):
    first = fabricate(tmp_path / "a" / "run", seconds=12.4)
    second = fabricate(tmp_path / "b" / "run", shift=0.1)
    picture = tmp_path / "new" / "compare.png"
    program.run("compare", first, second, f"--output={picture}")
    told = capsys.readouterr().out.splitlines()
    cells = [" ".join(line.split()) for line in told]
    assert cells[0] == ("run model params (M) steps val/miou, final best at step images/s seconds")
    assert cells[2] == "a/run segformer_b0 - 40 0.5000 0.7000 20 25.0 12"
    assert cells[3] == "b/run segformer_b0 - 40 0.4000 0.6000 20 25.0 -"
    pixels = np.asarray(Image.open(picture)).reshape(-1, 3)
    for colour in ((47, 125, 79), (42, 111, 151)):  # green and blue
        assert (np.abs(pixels.astype(int) - colour).max(1) < 4).sum() > 200


def test_parameters_are_counted_from_the_checkpoint(tmp_path):
    config = tiny.config()
    variables = random_variables(config)
    folder = tmp_path / "run"
    save_run(folder, config, {1: (variables, {"miou": 0.5})})
    (folder / "metrics.jsonl").write_text('{"step": 1, "split": "val", "val/miou": 0.5}\n')
    row = compare([str(folder)], say=lambda _: None)[0]
    assert row["parameters"] == sum(x.size for _, x in named_leaves(variables["params"]))
    assert (row["final"], row["best_step"], row["images_per_second"]) == (0.5, 1, None)


def test_what_does_not_compare_is_refused(tmp_path, capsys):
    run = fabricate(tmp_path / "run")

    def refusal(*arguments):
        return program.refused(capsys, "compare", *arguments)

    other = fabricate(tmp_path / "test", split="test")
    assert "differ in eval.split (run: val, test: test); name one" in refusal(run, other)
    assert f"{other}/metrics.jsonl has no val/miou" in refusal(run, other, "--split=val")
    assert "evaluated on test." in refusal(run, other, "--split=val")
    camvid = fabricate(tmp_path / "camvid", data="camvid")
    assert "differ in data.name (run: shapes, camvid: camvid)" in refusal(run, camvid)
    classifier = fabricate(tmp_path / "classifier", model="resnet18")
    assert "differ in task" in refusal(run, classifier)
    assert 'Did you mean "val/miou"' in refusal(run, "--metric=mio")
    assert "given twice" in refusal(run, run)
    assert "holds no run" in refusal(tmp_path)
    assert "--config.KEY changes nothing" in refusal(run, "--config.seed=1")
    (run / "config.json").write_text("[]")
    assert "is not a configuration" in refusal(run)


@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_runs(tmp_path, count):
    runs = [str(fabricate(tmp_path / str(i), shift=i / 100)) for i in range(count)]
    rows = compare(runs, str(tmp_path / "all.png"), say=lambda _: None)
    assert [row["run"] for row in rows] == [str(i) for i in range(count)]
