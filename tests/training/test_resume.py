"""Interrupted and resumed equals uninterrupted, bit for bit."""

import json

import jax
import numpy as np
import optax
import pytest
import tiny
from golden import Golden

import attnseg
from attnseg.core.tree import flat
from attnseg.recipe import assemble, run
from attnseg.training import loop
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.state import create_state

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
        if stop_at is not None and line.startswith(f"step {stop_at}/"):
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
    timing = ("images_per_second", "data_wait", "rss_mb", "compilations")
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(timing)} for line in lines]


def test_resumed_equals_uninterrupted(tmp_path):
    scores, said = start(tmp_path / "whole")
    assert "step 6/6" in "\n".join(said)
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
    assert figures == {
        "curves.png",
        "class_iou.png",
        "confusion.png",
        "memory.png",
        "overlay_0.png",
    }
    assert meta["config"]["model"]["name"] == "segformer_b0" and "jax" in meta["versions"]
    assert list((folder / "logs").iterdir())

    # A finished run only evaluates, and the evaluation restores what was trained.
    again, _ = start(tmp_path / "whole")
    assert again == scores
    evaluated = attnseg.evaluate(folder, checkpoint="latest", say=lambda _: None)
    assert evaluated == scores
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    by_score = {x["val/miou"]: x["step"] for x in lines if x["split"] == "val"}
    best = attnseg.evaluate(folder, say=lambda _: None)
    assert best["step"] == by_score[max(by_score)] and best["val/miou"] == max(by_score)
    with pytest.raises(attnseg.UserError, match='no checkpoint "5"'):
        attnseg.evaluate(folder, checkpoint="5", say=lambda _: None)


def test_a_workdir_of_another_model_is_refused(tmp_path):
    first = tiny.config(**CHANGES)
    run.write_json(tmp_path / run.CONFIG, run.to_dict(first))
    other = tiny.config(**{**CHANGES, "model__backbone__depths": (1, 2, 1, 1)})
    message = r"model\.backbone\.depths=\(1, 1, 1, 1\), this one has .*choose another --workdir"
    with pytest.raises(attnseg.UserError, match=message):
        attnseg.train(other, tmp_path, say=lambda _: None)
    (tmp_path / run.CONFIG).write_text("[1, 2]")
    with pytest.raises(attnseg.UserError, match="is not a configuration of attnseg"):
        attnseg.train(first, tmp_path, say=lambda _: None)


def test_the_best_and_the_latest_are_kept(tmp_path):
    """Across a restart, with a score that falls."""
    state = create_state({"params": {"a": np.zeros(3, np.float32)}}, optax.sgd(0.1), ema=False)

    def save(steps):
        checkpoints = Checkpoints(tmp_path, keep=2)
        for step, score in steps:
            scores = {} if score is None else {"miou": score}
            checkpoints.save(state.replace(step=np.int32(step)), {"batches": step}, scores)
        checkpoints.close()

    save([(2, 0.5), (4, 0.9), (6, 0.1)])
    save([(8, 0.2), (10, None), (12, 0.3)])
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {4, 10, 12}
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert (checkpoints.find("best"), checkpoints.find("latest")) == (4, 12)
    checkpoints.close()


def test_a_run_that_cannot_go_on_leaves_everything_as_it_was(tmp_path):
    short = {**CHANGES, "train__steps": 2, "eval__overlays": 0}
    attnseg.train(tiny.config(**short), tmp_path, say=lambda _: None)
    before = (tmp_path / run.CONFIG).read_text()
    for change, message in (
        ({"optim__name": "sgd"}, "was saved with another model, optimizer or train.ema"),
        ({"data__batch_size": 4}, "was started with batch_size 8, not 4"),
        ({"seed": 1}, "was started with seed 0, not 1"),
    ):
        with pytest.raises(attnseg.UserError, match=message):
            attnseg.train(tiny.config(**{**short, **change}), tmp_path, say=lambda _: None)
        assert (tmp_path / run.CONFIG).read_text() == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny.config(**{**CHANGES, "optim__lr": 1e30, "log__every": 100})
    with pytest.raises(attnseg.UserError, match=r"is nan at step|is inf at step"):
        attnseg.train(config, tmp_path, say=lambda _: None)
    assert not list((tmp_path / "checkpoints").iterdir())  # nothing that holds NaN


def test_training_starts_from_weights_and_keeps_their_layout(tmp_path):
    golden = Golden("nvlabs_segformer_tiny")
    np.savez(tmp_path / "weights.npz", **golden.state())
    config = tiny.config(
        model__backbone__widths=(8, 16, 24, 32),
        model__backbone__depths=(1, 2, 2, 1),
        model__backbone__heads=(1, 2, 3, 4),
        model__head__width=20,
        init__weights=str(tmp_path / "weights.npz"),
        optim__lr=1e-9,
        train__steps=1,
        eval__overlays=0,
    )
    said = []
    attnseg.train(config, tmp_path / "run", say=said.append)
    text = "\n".join(said)
    assert "NVlabs SegFormer" in text and "not loaded: params/head/classifier/kernel" in text
    saved = json.loads((tmp_path / "run" / run.CONFIG).read_text())
    assert saved["model"]["backbone"]["layout"] == "nvlabs"
    variables, _ = attnseg.load_weights(assemble.build_model(config), golden.state())
    (tmp_path / "weights.npz").unlink()  # neither resuming nor evaluating needs it
    checkpoints = Checkpoints(tmp_path / "run")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = checkpoints.restore_weights(1, jax.eval_shape(lambda: variables), here)
    checkpoints.close()
    np.testing.assert_allclose(
        state.params["backbone"]["stage1_embed"]["proj"]["kernel"],
        variables["params"]["backbone"]["stage1_embed"]["proj"]["kernel"],
        atol=1e-6,
    )
    scores = attnseg.train(config, tmp_path / "run", say=said.append)
    assert said[-1].startswith("results in")
    assert attnseg.evaluate(tmp_path / "run", say=lambda _: None) == scores
