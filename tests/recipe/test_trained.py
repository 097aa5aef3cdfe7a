"""A trained network with everything its checkpoint says, where the data are gone."""

import shutil

import jax
import numpy as np
import own_folders
import pytest
import tiny
from saved_run import random_variables, save_run

from attnseg.core.errors import UserError
from attnseg.core.tree import flat
from attnseg.recipe.trained import find_step, load_trained

CLASSES = "road #0a141e\ncar #c80000\ntree #00c800\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder of the user's that is no longer there."""
    place = tmp_path_factory.mktemp("run")
    own_folders.pairs(place / "data", [f"{split}/a" for split in ("train", "val")], CLASSES)
    config = tiny.config(data__name="folder", data__root=str(place / "data"))
    first = random_variables(config)
    second = jax.tree.map(lambda x: x + 1.0, first)
    scores = {1: (first, {"miou": 0.7}), 2: (second, {"miou": 0.3})}
    save_run(place / "work", config, scores)
    shutil.rmtree(place / "data")
    return place / "work", first, second


@pytest.mark.parametrize("checkpoint, step", [("best", 1), ("latest", 2), (2, 2)])
def test_the_checkpoint_asked_for(run, checkpoint, step):
    workdir, *states = run
    assert find_step(workdir, checkpoint) == step
    trained = load_trained(workdir, checkpoint)
    expected = flat(states[step - 1])
    found = flat(trained.variables)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_classes_and_colours_come_from_the_checkpoint(run):
    model, variables, info, config = load_trained(run[0])
    assert config.data.name == info.name == "folder" and info.task == "segmentation"
    assert info.classes == ("road", "car", "tree")
    assert info.palette == ((10, 20, 30), (200, 0, 0), (0, 200, 0))
    assert info.normalisation.mean == (123.675, 116.28, 103.53)
    shape = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False)["logits"],
        variables,
        jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32),
    ).shape
    assert shape == (1, 16, 16, info.num_classes)


def test_what_is_not_there_is_told(run, tmp_path):
    with pytest.raises(UserError, match="holds no trained run"):
        load_trained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='no checkpoint "7".*1, 2'):
        load_trained(run[0], 7)
