"""Runs of earlier releases, as they were left on disk: ``releases/VERSION.tar.xz``.

That of 0.1.0 is a SegFormer of four channels after four steps on ``shapes``, with its
``config.json`` and the checkpoint of step 4.
"""

import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import attnseg
from attnseg.recipe import assemble
from attnseg.recipe.load import from_dict
from attnseg.training import loop, step_folder
from attnseg.training.checkpoint import Checkpoints

RELEASES = Path(__file__).parent / "releases"
MIOU = 0.08407384432087858  # what the release itself printed
TOTAL = 1217.9993309597296  # of the absolute values of all arrays, read with Orbax alone


@pytest.fixture
def run(tmp_path):
    with tarfile.open(RELEASES / "0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def restore(workdir, **changes):
    config = from_dict(json.loads((workdir / "config.json").read_text()), changes)
    source = assemble.open_split(config, "val")
    job = assemble.build_job(config, train=source, val=source)
    checkpoints, said = Checkpoints(workdir), []
    try:
        state = checkpoints.restore_newest(*loop.abstract_state(job), said.append)
        return state, said, checkpoints.best_score()
    finally:
        checkpoints.close()


def test_training_goes_on(run):
    state, said, best = restore(run)
    assert "checkpoint 4 was made before checksums were kept; it is not verified" in said
    assert int(state.step) == 4 and best == (4, MIOU)
    total = sum(float(np.abs(x).sum(dtype=np.float64)) for x in jax.tree_util.tree_leaves(state))
    assert total == pytest.approx(TOTAL, rel=1e-12)


def test_what_changed_is_named(run):
    with pytest.raises(attnseg.UserError) as error:
        restore(run, **{"model.head.width": 6, "train.ema": 0.0})
    message = str(error.value)
    assert "ema_params/backbone/" in message and "is in the checkpoint only" in message
    assert "params/head/norm/scale is (4,) there and (6,) here" in message


def test_it_is_evaluated_where_later_ones_are_damaged(run):
    for step, part in ((6, "meta/metadata"), (8, "state/_METADATA"), (9, "state/manifest.ocdbt")):
        shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / str(step))
        target = run / "checkpoints" / str(step) / part
        if step == 6:
            target.write_bytes(target.read_bytes()[:100])
        else:
            target.unlink()
    said = []
    scores = attnseg.evaluate(run, checkpoint="latest", say=said.append)
    assert scores["step"] == 4 and scores["val/miou"] == pytest.approx(MIOU, abs=1e-6)
    text = "\n".join(said)
    for part in (
        "checkpoint 6 is damaged and passed over: meta/metadata cannot be read",
        "checkpoint 8 is damaged and passed over: state/_METADATA is missing",
        "checkpoint 9 is damaged and passed over: state/manifest.ocdbt is missing",
        "of the sound checkpoints the latest is 4",
        "of shapes, 160 images, step 4",
    ):
        assert part in text


def test_arrays_that_cannot_be_read(run):
    """Nothing tells of it before they are read; then the one before is used."""
    folder = run / "checkpoints"
    shutil.copytree(folder / "4", folder / "6")
    for path in (folder / "6" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])
    state, said, _ = restore(run)
    assert int(state.step) == 4
    assert any("checkpoint 6 is damaged and passed over: its arrays" in line for line in said)
    assert step_folder.list_steps(folder) == [4, 6]
