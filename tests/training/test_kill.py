"""Killed anywhere and started again equals never killed, bit for bit; nothing is left behind."""

import json
import random
import signal

import jax
import numpy as np
import overnight
import pytest
from children import Children, records

from attnseg.core.tree import flat
from attnseg.recipe import assemble
from attnseg.training import loop
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.interrupt import STATUS

PROGRAM = overnight.ROOT / "tests" / "training" / "overnight.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return overnight.make_data(tmp_path_factory.mktemp("data"))


def start(children, job, data, workdir, steps, point=None):
    workdir.mkdir(exist_ok=True)
    more = json.dumps({"train__steps": steps})
    return children.run(PROGRAM, job, data, workdir, json.dumps(point or {}), more)


def states(job, data, workdir, steps):
    """What the latest and the best checkpoint hold: {name: array}, and the steps."""
    config = overnight.config(job, data, train__steps=steps)
    source = assemble.open_split(config, "val")
    built = assemble.build_job(config, train=source, val=source)
    checkpoints = Checkpoints(workdir, metric=built.evaluation.task.best)
    shapes, shardings = loop.abstract_state(built)
    found = [checkpoints.find(name) for name in ("latest", "best")]
    arrays = [
        flat(jax.device_get(checkpoints.restore(s, shapes, shardings))) | checkpoints.meta(s)
        for s in found
    ]
    checkpoints.close()
    return found, arrays


def compare(job, data, whole, cut, steps):
    assert records(whole) == records(cut)
    order = dict(map(tuple_of, (whole / "batches.txt").read_text().splitlines()))
    for line in (cut / "batches.txt").read_text().splitlines():
        step, sums = tuple_of(line)
        assert order[step] == sums, f"batch {step} differs"
    (steps_whole, ours), (steps_cut, theirs) = (
        states(job, data, place, steps) for place in (whole, cut)
    )
    assert steps_whole == steps_cut
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert np.array_equal(value, other[name]), name
    results = [json.loads((place / "results.json").read_text()) for place in (whole, cut)]
    assert results[0]["metrics"] == results[1]["metrics"]


def tuple_of(line):
    step, *sums = json.loads(line)
    return step, tuple(sums)


def chain(job, data, folder, steps, points):
    """One run killed at each point in turn; prints the table of what happened."""
    children = Children(overnight.MARK)
    status, output = start(children, job, data, folder / "whole", steps)
    assert status == 0, output
    assert not children.left_behind()
    cut = folder / "cut"
    for number, point in enumerate(points):
        status, output = start(children, job, data, cut, steps, point)
        resumed = [line for line in output.splitlines() if line.startswith("resumed")]
        print(f"{number + 1:3} {json.dumps(point):75} status {status:3} {resumed}")
        wanted = -signal.SIGKILL if point["signal"] == "SIGKILL" else STATUS
        assert status == wanted, output
        assert not children.left_behind(), point
    status, output = start(children, job, data, cut, steps)
    assert status == 0, output
    assert not children.left_behind()
    compare(job, data, folder / "whole", cut, steps)


def random_points(seed, kills):
    """Kills of every kind in turn, and one signal, in random order."""
    dice = random.Random(seed)
    most = {"step": 3, "evaluation": 3, "save": 2, "write": 8, "prune": 8}
    kinds = [list(most)[i % len(most)] for i in range(kills)]
    points = [{"kind": kind, "signal": "SIGKILL"} for kind in kinds]
    kind = ("step", "evaluation", "save")[seed % 3]
    name = ("SIGTERM", "SIGINT")[seed % 2]
    points.append({"kind": kind, "signal": name, "group": True})
    dice.shuffle(points)
    for point in points:
        point["number"] = dice.randint(1, most[point["kind"]])
        if point["kind"] == "save":
            point["ms"] = dice.randint(0, 40)
    return points


@pytest.mark.slow
def test_killed_and_stopped_within_an_evaluation_and_a_save(data, tmp_path):
    """Of the random points below, those most likely to break something."""
    points = [
        {"kind": "save", "number": 2, "ms": 5, "signal": "SIGKILL"},
        {"kind": "evaluation", "number": 2, "signal": "SIGTERM", "group": True},
        {"kind": "prune", "number": 2, "signal": "SIGKILL"},
    ]
    chain("segnext", data, tmp_path, 10, points)


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, seed", [("segnext", 1), ("segnext", 2), ("segnext", 3), ("mit", 4), ("mit", 5)]
)
def test_killed_at_random_points(job, seed, data, tmp_path):
    """Five kills, one of each kind, and a signal; 25 kills and 5 signals in all."""
    chain(job, data, tmp_path, 40, random_points(seed, kills=5))
