"""The notebooks run from the first cell to the last, at tiny settings."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tiny
from saved_run import random_variables

from attnseg.recipe.assemble import build_model
from attnseg.weights import export_torch

FOLDER = tiny.ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SMALL = {
    **{key: value for key, value in tiny.CHANGES.items() if key != "eval.batch_size"},
    "eval.overlays": 1,
    "log.every": 1,
}


def code_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def execute(name, **parameters):
    """Runs the cells in one namespace; `parameters` replace what the tagged cell sets."""
    space = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(name)):
        # In a clone nothing is to be installed; shell lines are not Python.
        lines = "".join(cell["source"]).splitlines()
        lines = [
            line.replace(line.lstrip(), "raise AssertionError('not in a clone')")
            if line.lstrip()[:1] in ("!", "%")
            else line
            for line in lines
        ]
        exec(compile("\n".join(lines), f"{name}[{number}]", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= space.keys()
            space.update(parameters)
    return space


@pytest.fixture(autouse=True)
def in_the_notebooks_folder(monkeypatch):
    """Where Jupyter starts them, from which the first cell finds the clone."""
    matplotlib.use("Agg")
    monkeypatch.chdir(FOLDER)


def test_all_notebooks_are_tested_and_clean():
    assert NAMES == ["finetune_your_folder", "look_inside_attention", "train_quickstart"]
    for name in NAMES:
        cells = code_cells(name)
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), name
        assert "REPOSITORY" in "".join(cells[0]["source"])
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1


@pytest.mark.slow
def test_quickstart_and_look_inside(tmp_path):
    workdir = str(tmp_path / "run")
    space = execute("train_quickstart", WORKDIR=workdir, STEPS=2, CHANGES=SMALL)
    assert space["agreement"] > 0.999 and 0 <= space["scores"]["val/miou"] <= 1
    space = execute("look_inside_attention", WORKDIR=workdir, STEPS=2, CHANGES=SMALL)
    # One head in the first stage, five in the third and eight in the last.
    assert len(space["maps"]) == 1 + 2 + 5 + 8
    shares = [float((values > 0).mean()) for values in space["paths"].values()]
    assert shares[0] < 0.5 and shares[-1] == 1.0  # a cross, then everything
    assert (Path(workdir) / "figures" / "attention.png").stat().st_size > 10_000


@pytest.mark.slow
def test_fine_tuning_from_weights(tmp_path):
    config = tiny.config()
    published, root = tmp_path / "weights.safetensors", tmp_path / "images"
    export_torch(build_model(config), random_variables(config), published)
    space = execute(
        "finetune_your_folder",
        ROOT=str(root),
        WORKDIR=str(tmp_path / "run"),
        WEIGHTS=str(published),
        EPOCHS=0.25,
        CHANGES=SMALL,
    )
    assert space["prediction"].labels.shape == (96, 96)
    assert space["prediction"].class_names[1] == "disc"
    assert np.isfinite(list(space["scores"].values())).all()
    said = json.loads((tmp_path / "run" / "config.json").read_text())
    assert said["init"]["weights"] == str(published)
