"""All ways of evaluating, on a tiny network: against each other and against single images."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import attnseg
from attnseg.core.errors import UserError
from attnseg.core.mesh import make_mesh
from attnseg.infer import Views, label_map
from attnseg.objectives import Confusion, boundary_counts, boundary_summary, count_pairs
from attnseg.recipe import assemble
from attnseg.recipe.report import write_report
from attnseg.recipe.subset import Subset
from attnseg.tasks.segmentation import TINY
from attnseg.training.evaluate import evaluate, jit_eval_step
from attnseg.training.state import weights_only
from attnseg.training.tally import Tally

SLIDE = {"eval.mode": "slide", "eval.window": (64, 48), "eval.stride": (40, 30)}


class Mixed:
    """Images of two sizes, with ignored pixels, cut from the embedded ones."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 5

    def __getitem__(self, index):
        example = dict(self.source[index])
        size = (96, 96) if index % 2 else (71, 90)
        example["image"] = example["image"][: size[0], : size[1]]
        example["label"] = example["label"][: size[0], : size[1]].copy()
        example["label"][:9, :20] = 255
        return example | {"size": np.array(size, np.int32)}


@pytest.fixture(scope="module")
def source():
    return Mixed(assemble.open_split(tiny.config(), "val"))


def network(params, batch_stats, images):
    """Logits at a quarter of the size, of surroundings and of the place in the window."""
    x = jax.lax.reduce_window(images, 0.0, jax.lax.add, (1, 8, 8, 1), (1, 4, 4, 1), "SAME")
    place = jnp.linspace(-1, 1, x.shape[1])[:, None] * jnp.linspace(0, 3, x.shape[2])
    logits = x @ params["weights"] + place[None, ..., None] * jnp.arange(8)
    return {"logits": logits, "aux": ()}


@pytest.fixture(scope="module")
def state():
    return weights_only({"params": {"weights": jax.random.normal(jax.random.key(0), (3, 8))}})


def build(source, **changes):
    evaluation = assemble.build_evaluation(tiny.config(**changes), source)
    return dataclasses.replace(evaluation, apply=network)


def one_device(evaluation):
    return dataclasses.replace(evaluation, mesh=make_mesh(devices=jax.devices()[:1]))


def scores_of(evaluation, state):
    return evaluate(evaluation, jit_eval_step(evaluation), state)


@pytest.fixture(scope="module")
def evaluation(source):
    return one_device(build(source, eval__batch_size=2))


@pytest.fixture(scope="module")
def whole(evaluation, state):
    return scores_of(evaluation, state)


@pytest.fixture(scope="module")
def slide_evaluation(source):
    return one_device(build(source, eval__batch_size=4, **SLIDE))


@pytest.fixture(scope="module")
def slide(slide_evaluation, state):
    return scores_of(slide_evaluation, state)


def near(ours, theirs):
    """Equal but for pixels whose two best classes are equal up to rounding."""
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    moved = np.abs(ours.confusion - theirs.confusion).sum()
    assert moved <= 1e-3 * theirs.confusion.sum()
    assert ours.confusion.sum() == theirs.confusion.sum()
    assert ours["mbiou"] == pytest.approx(theirs["mbiou"], abs=2e-3)
    assert [i.name for i in ours.images] == [i.name for i in theirs.images]


def test_whole_images_in_batches_or_in_blocks(evaluation, whole, state):
    assert len(np.flatnonzero(whole.confusion.sum(0))) > 2  # there is something to compare
    assert len(whole.images) == 5 and whole.programs == 2  # a program for each size
    blocks = scores_of(dataclasses.replace(evaluation, views=Views()), state)
    near(blocks, whole)


def test_one_window_is_the_whole_image(evaluation, whole, state):
    views = Views("slide", (128, 128), (16, 16))
    near(scores_of(dataclasses.replace(evaluation, views=views), state), whole)


def test_scores_are_those_of_the_label_maps(slide_evaluation, slide, source, state):
    """Of every image by itself, and of all together."""
    task, views = slide_evaluation.task, slide_evaluation.views
    k = len(task.classes)
    total, boundary = Confusion(k), np.zeros((3, k), np.int64)
    by_name = {image.name: image for image in slide.images}
    for index in range(len(source)):
        example = source[index]
        variables = (state.eval_params, state.batch_stats)
        guess = label_map(slide_evaluation.programs, variables, example["image"], views)
        matrix = count_pairs(example["label"], guess, k)
        total.add(matrix)
        boundary += boundary_counts(example["label"], guess, k)
        image, single = by_name[example["id"]], Confusion(k)
        single.add(matrix)
        single = single.summary(task.classes)
        assert image.miou == single["miou"] and image.aacc == single["aacc"]
        assert image.pixels == matrix.sum() and image.size == guess.shape
    np.testing.assert_array_equal(slide.confusion, total.matrix)
    expected = total.summary(task.classes) | boundary_summary(boundary, task.classes)
    assert {n: v for n, v in slide.items() if n != "loss"} == expected
    assert np.isfinite(slide["loss"])
    # Two sizes, one window: the network, a block, the counts, and the arg-max above.
    assert slide.programs == 3


def test_devices_change_nothing(source, state, slide, whole):
    for changes, expected in ((SLIDE, slide), ({}, whole)):
        shared = build(source, eval__batch_size=4, **changes)
        assert shared.mesh.size == 4
        near(scores_of(shared, state), expected)


def test_several_views_are_scored(evaluation, state, source):
    changes = {"eval.scales": (0.75, 1.0), "eval.flip": True, "eval.bucket": 32}
    two = one_device(build(Subset(source, (0, 1)), **changes))
    assert two.views.count == 4
    scores = scores_of(two, state)
    # Of a network that was never trained; the loss of a share of 0 is that of `TINY`.
    assert 0 < scores["loss"] < -np.log(TINY) and scores.confusion.sum() == sum(
        (source[i]["label"] != 255).sum() for i in range(2)
    )


def test_tallies_of_processes_add_up_exactly(slide):
    parts = [Tally(), Tally()]
    parts[0].add({"confusion": np.full((2, 2), 2**40), "loss_sum": np.float32(0.1)})
    parts[1].add({"confusion": np.ones((2, 2), np.int32), "loss_sum": np.float32(0.2)})
    parts[1].add_image("a", (3, 4), np.array([[0, 2], [0, 0]]))
    total = Tally()
    for part in parts:
        total._add_json(json.loads(part._to_json()))
    np.testing.assert_array_equal(total.sums["confusion"], np.full((2, 2), 2**40 + 1))
    assert total.sums["loss_sum"] == np.float64(np.float32(0.1)) + np.float64(np.float32(0.2))
    (image,) = total.images
    assert image == parts[1].images[0] and image.ious == (0.0, 0.0)


def test_the_report(slide_evaluation, slide, tmp_path):
    write_report(tmp_path, slide_evaluation, slide, split="val", step=3)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["metrics"]["val/miou"] == slide["miou"]
    assert "left out of every mean" in record["counting"]
    expected = {"mode": "slide", "window": [64, 48], "stride": [40, 30], "programs": 3}
    assert expected.items() <= record["evaluation"].items()
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    values = [float(row["miou"]) for row in rows]
    assert len(rows) == 5 and values == sorted(values)
    assert float(rows[0]["aacc"]) == pytest.approx(slide.images[0].aacc, abs=1e-6)
    table = [line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines()]
    assert [int(x) for x in table[2][1:]] == slide.confusion[1].tolist()
    assert (tmp_path / "figures" / "confusion.png").stat().st_size > 10_000


@pytest.mark.slow
def test_training_evaluates_in_windows(tmp_path):
    """With the settings of `test_resume`, which compiles the same step."""
    training = {"train.ema": 0.9, "model.backbone.drop_path": 0.2, "train.steps": 6}
    often = {"eval.every": 4, "checkpoint.every": 2, "eval.overlays": 1, "log.every": 1}
    changes = {**SLIDE, **training, **often, "eval.batch_size": 4}
    said = []
    scores = attnseg.train(tiny.config(**changes), tmp_path, say=said.append)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["evaluation"]["mode"] == "slide" and record["seconds"] > 0
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 161
    assert (tmp_path / "figures" / "overlay_0.png").exists()
    assert (tmp_path / "figures" / "confusion.png").exists()
    # The same from the checkpoint, and other numbers in another way.
    again = attnseg.evaluate(tmp_path, checkpoint="latest", say=said.append)
    assert again["val/loss"] == pytest.approx(scores["val/loss"], rel=1e-5)
    assert again["val/miou"] == pytest.approx(scores["val/miou"], abs=1e-3)
    assert "3 programs compiled" in said and (tmp_path / "evaluation/val/scores.csv").exists()
    whole = {"eval.mode": "whole"}
    other = attnseg.evaluate(tmp_path, checkpoint="latest", changes=whole, output=tmp_path / "w")
    assert other["val/loss"] != scores["val/loss"]
    assert json.loads((tmp_path / "w" / "results.json").read_text())["evaluation"]["programs"] == 1


def test_what_does_not_go_together_is_said(source):
    with pytest.raises(UserError, match="leaves gaps"):
        tiny.config(**{**SLIDE, "eval.stride": (65, 30)})
    with pytest.raises(UserError, match="eval.scales"):
        tiny.config(**{"eval.scales": (1.0, -1.0)})
    with pytest.raises(UserError, match="eval.window"):
        tiny.config(**{"eval.window": (0, 4)})
    with pytest.raises(UserError, match='eval.mode="slid" .* Did you mean "slide"'):
        tiny.config(**{"eval.mode": "slid"})
