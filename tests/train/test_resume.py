"""Interrupted and resumed equals uninterrupted, bit for bit."""

import json

import jax
import numpy as np
import pytest
import tiny

import attnseg
from attnseg.core.tree import flat
from attnseg.recipe import assemble, run
from attnseg.train import loop
from attnseg.train.checkpoint import Checkpoints

CHANGES = dict(
    train__steps=6,
    train__ema=0.9,
    model__backbone__drop_path=0.2,
    checkpoint__every=2,
    eval__every=4,
    eval__overlays=1,
    log__every=1,
)


class Killed(Exception):
    pass


def start(workdir, stop_at=None):
    """A run whose process "dies" when it says that step `stop_at` is done."""
    said = []

    def say(line):
        said.append(line)
        if stop_at is not None and line.startswith(f"step {stop_at:>4}/"):
            raise Killed

    scores = attnseg.train(tiny.config(**CHANGES), workdir, say=say)
    return scores, said


def final_state(workdir):
    config = tiny.config(**CHANGES)
    source = assemble.open_split(config, "val")
    job = assemble.build_job(config, train=source, val=source)
    checkpoints = Checkpoints(workdir)
    shapes, shardings = loop.abstract_state(job)
    step = checkpoints.latest_step()
    state, meta = checkpoints.restore(step, shapes, shardings), checkpoints.meta(step)
    checkpoints.close()
    return step, jax.device_get(state), meta


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timing = ("images_per_second", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(timing)} for line in lines]


def test_resumed_equals_uninterrupted(tmp_path):
    scores, said = start(tmp_path / "whole")
    assert "step    6/6" in "\n".join(said)
    with pytest.raises(Killed):
        start(tmp_path / "cut", stop_at=3)
    resumed, said = start(tmp_path / "cut")
    assert "resumed from step 2 of 6" in said
    assert resumed == scores
    step, whole, meta = final_state(tmp_path / "whole")
    other_step, cut, _ = final_state(tmp_path / "cut")
    assert step == other_step == 6 and meta["batches"] == 6
    for name, value in flat(whole).items():
        assert np.array_equal(value, flat(cut)[name]), name
    assert records(tmp_path / "whole") == records(tmp_path / "cut")

    # What a run leaves behind.
    folder = tmp_path / "whole"
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"]["val/miou"] == scores["val/miou"] and "counting" in results
    figures = {p.name for p in (folder / "figures").iterdir()}
    assert figures == {"curves.png", "class_iou.png", "overlay_0.png"}
    assert meta["config"]["model"]["name"] == "segformer_b0" and "jax" in meta["versions"]
    assert list((folder / "logs").iterdir())

    # A finished run only evaluates, and the evaluation restores what was trained.
    again, _ = start(tmp_path / "whole")
    assert again == scores
    evaluated = attnseg.evaluate(folder, checkpoint="latest", say=lambda _: None)
    assert evaluated == scores
    best = attnseg.evaluate(folder, say=lambda _: None)
    assert best["step"] in (4, 6)
    with pytest.raises(attnseg.UserError, match='no checkpoint "5"'):
        attnseg.evaluate(folder, checkpoint="5", say=lambda _: None)


def test_a_workdir_of_another_model_is_refused(tmp_path):
    first = tiny.config(**CHANGES)
    run.write_json(tmp_path / run.CONFIG, run.to_dict(first))
    other = tiny.config(**{**CHANGES, "model__backbone__depths": (1, 2, 1, 1)})
    with pytest.raises(attnseg.UserError, match=r"model\.backbone.*choose another --workdir"):
        attnseg.train(other, tmp_path, say=lambda _: None)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny.config(**{**CHANGES, "optim__lr": 1e30, "optim__clip_norm": 0.0})
    with pytest.raises(attnseg.UserError, match=r"is nan at step|is inf at step"):
        attnseg.train(config, tmp_path, say=lambda _: None)
