"""Experiments: every run has a valid configuration, and differs in what its experiment is about."""

import dataclasses

import pytest
import tiny

from attnseg.core.errors import UserError
from attnseg.recipe import experiment as runner
from attnseg.recipe.experiment import Outcome, configuration, run_experiment, table
from attnseg.recipe.experiments import EXPERIMENTS, SCALES, Experiment, Variant
from attnseg.recipe.load import leaves

CONFIGS = tiny.ROOT / "configs"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_runs_of_an_experiment_share_data_and_steps(name, scale):
    experiment = EXPERIMENTS[name]
    configs = [configuration(v, experiment, CONFIGS, scale, {}) for v in experiment.variants]
    assert len({variant.label for variant in experiment.variants}) == len(configs)
    shared = ("data.name", "data.batch_size", "data.crop", "eval.resize", "seed")
    for key in shared:
        assert len({leaves(config)[key] for config in configs}) == 1, key
    if scale == "cpu":
        assert len({config.train.steps for config in configs}) == 1
        assert all(config.train.epochs is None for config in configs)
    # Otherwise the same run would be made twice.
    assert len({config.model.to_json() + config.augment.to_json() for config in configs}) == len(
        configs
    )


def outcome(label, seed, score):
    return Outcome(label, seed, "runs/x", 3_750_000, score, 0.5, 12.0, 45.0)


def test_the_table_gives_mean_and_range():
    experiment = Experiment("A and B", "A wins", (Variant("A", "a"), Variant("B", "b")), {})
    outcomes = [outcome("A", 0, 0.4), outcome("B", 0, 0.3), outcome("A", 1, 0.5)]
    rows = table(experiment, outcomes, "miou").splitlines()
    assert rows[2] == "| A | 2 | 3.75 | 0.450 (0.400 to 0.500) | 0.500 | 12.0 | 45.0 |"
    assert rows[3] == "| B | 1 | 3.75 | 0.300 | 0.500 | 12.0 | 45.0 |"


def test_an_experiment_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    small = {k: v for k, v in tiny.CHANGES.items() if k != "model.head.width"}
    small |= {"train.steps": 2, "eval.every": 2, "log.every": 1, "eval.overlays": 0}
    variants = (
        Variant("narrow", "segformer_b0.py:shapes", {"model.head.width": 8}),
        Variant("Wide head", "segformer_b0.py:shapes", {"model.head.width": 16}),
    )
    made = Experiment("widths", "wider is better", variants, small)
    monkeypatch.setitem(EXPERIMENTS, "widths", made)
    first = run_experiment("widths", CONFIGS, tmp_path, say=lambda _: None)
    assert [o.label for o in first] == ["narrow", "Wide head"]
    assert first[0].parameters < first[1].parameters and first[0].checkpoint_mb > 0
    assert (tmp_path / "widths" / "wide-head-seed0" / "metrics.jsonl").is_file()
    assert "| narrow | 1 |" in (tmp_path / "widths" / runner.TABLE).read_text()
    assert (tmp_path / "widths" / runner.CURVES.format(seed=0)).stat().st_size > 1000
    said = []
    again = run_experiment("widths", CONFIGS, tmp_path, say=said.append)
    assert any("resumed from step 2" in line for line in said)
    for a, b in zip(first, again, strict=True):
        assert dataclasses.replace(b, images_per_second=0) == dataclasses.replace(
            a, images_per_second=0
        )


def test_mistakes_are_told_before_training(tmp_path):
    with pytest.raises(UserError, match='"segnex".*segnext'):
        run_experiment("segnex", CONFIGS, tmp_path)
    with pytest.raises(UserError, match='scale "gpu" is none of cpu, full'):
        run_experiment("segnext", CONFIGS, tmp_path, scale="gpu")
    with pytest.raises(UserError, match="unknown configuration key"):
        run_experiment("segnext", CONFIGS, tmp_path, changes={"no.key": 1})
    assert not list(tmp_path.iterdir())
