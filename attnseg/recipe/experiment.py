"""Runs an experiment of `attnseg.recipe.experiments` and writes its table and curves."""

from __future__ import annotations

import dataclasses
import gc
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from attnseg.core import tree
from attnseg.core.errors import check, lookup
from attnseg.recipe import assemble
from attnseg.recipe.experiments import EXPERIMENTS, SCALES, Experiment, Variant
from attnseg.recipe.load import leaves, load_config
from attnseg.recipe.run import evaluate, train
from attnseg.training.checkpoint import FOLDER, write_json
from attnseg.training.log import FILE, read_metrics
from attnseg.viz.compare import plot_runs

Say = Callable[[str], None]
RESULTS = "results.json"
TABLE = "table.md"
CURVES = "curves-seed{seed}.png"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of one variant came to.

    Attributes:
      label, seed, workdir: which run.
      parameters: of the network, without auxiliary heads.
      score: of the experiment's split, in 0..1.
      loss: training loss at the end, the mean of the last tenth of the logged steps.
      images_per_second: median over the logged windows but the first, which compiles.
      checkpoint_mb: megabytes (1e6 bytes) of the newest checkpoint.
    """

    label: str
    seed: int
    workdir: str
    parameters: int
    score: float
    loss: float
    images_per_second: float
    checkpoint_mb: float


def configuration(
    variant: Variant, experiment: Experiment, configs: Path, scale: str, changes: Mapping[str, Any]
) -> ConfigDict:
    """The configuration of one run.

    What the experiment changes goes as far as the network has the key: a classifier's decoder has
    no auxiliary head to make narrower.
    """
    path = str(configs / variant.config)
    known = leaves(load_config(path))
    shared = {k: v for k, v in experiment.changes(scale).items() if k in known}
    return load_config(path, {**shared, **variant.changes, **changes})


def run_experiment(
    name: str,
    configs: str | Path,
    output: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0,),
    changes: Mapping[str, Any] | None = None,
    say: Say = print,
) -> list[Outcome]:
    """Trains every variant with every seed, and scores it on the experiment's split.

    A run that is there already is taken up where it stopped, a finished one only scored, so the
    same command goes on after an interruption and adds seeds.

    Args:
      name: a name of `EXPERIMENTS`.
      configs: folder of the configuration files.
      output: the runs go to ``OUTPUT/NAME/VARIANT-seedS``; ``OUTPUT/NAME`` also gets
        ``results.json``, ``table.md`` and the curves of each seed, ``curves-seedS.png``.
      scale: "cpu", cut down to two cores, or "full".
      seeds: one run of each variant for each.
      changes: dotted configuration keys of all runs, e.g. ``data.root``.
      say: takes each line for the terminal.

    Raises:
      UserError: unknown experiment or scale, or whatever `attnseg.train` refuses; every
        configuration is checked before the first run starts.
    """
    experiment = lookup(EXPERIMENTS, name, "experiment")
    check(scale in SCALES, f'scale "{scale}" is none of {", ".join(SCALES)}.')
    check(bool(seeds), "no seeds; give at least one, e.g. --seeds=0.")
    configs, folder = Path(configs), Path(output) / name
    planned = [
        (variant, seed, configuration(variant, experiment, configs, scale, changes or {}))
        for seed in seeds
        for variant in experiment.variants
    ]
    outcomes: list[Outcome] = []
    for variant, seed, config in planned:
        config.seed = seed
        workdir = folder / f"{_slug(variant.label)}-seed{seed}"
        say(f"\n{experiment.title}: {variant.label}, seed {seed}")
        train(config, workdir, say=say)
        outcomes.append(_outcome(variant, seed, config, workdir, experiment.split))
        write_json(
            folder / RESULTS,
            {
                "experiment": name,
                "scale": scale,
                "split": experiment.split,
                "device": jax.devices()[0].device_kind,
                "runs": [dataclasses.asdict(outcome) for outcome in outcomes],
            },
        )
        score = score_name(config)
        (folder / TABLE).write_text(table(experiment, outcomes, score) + "\n")
        curves = {o.label: read_metrics(Path(o.workdir) / FILE) for o in outcomes if o.seed == seed}
        plot_runs(curves, folder / CURVES.format(seed=seed), f"{config.eval.split}/{score}")
        jax.clear_caches()  # the next network shares no program with this one
        gc.collect()
    say("\n" + (folder / TABLE).read_text())
    return outcomes


def score_name(config: ConfigDict) -> str:
    """The score that decides, as in ``metrics.jsonl``: ``miou`` or ``top1``."""
    return assemble.build_task(config).best


def _outcome(variant: Variant, seed: int, config: ConfigDict, workdir: Path, split: str) -> Outcome:
    scores = evaluate(workdir, split=split, checkpoint="latest", say=lambda _: None)
    windows = [r for r in read_metrics(workdir / FILE) if r["split"] == "train"]
    last = windows[-max(1, len(windows) // 10) :]
    newest = max((workdir / FOLDER).glob("[0-9]*"), key=lambda path: int(path.name))
    size = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    init = assemble.init_function(config, assemble.build_model(config))
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    return Outcome(
        label=variant.label,
        seed=seed,
        workdir=str(workdir),
        parameters=sum(tree.count(part) for k, part in params.items() if k != "aux_head"),
        score=scores[f"{split}/{score_name(config)}"],
        loss=statistics.fmean(r["train/loss"] for r in last),
        images_per_second=statistics.median(
            r["train/images_per_second"] for r in windows[1:] or windows
        ),
        checkpoint_mb=size / 1e6,
    )


def table(experiment: Experiment, outcomes: Sequence[Outcome], score: str) -> str:
    """A Markdown table with a row for each variant: means over its seeds, and their range."""
    lines = [
        f"| {experiment.title} | seeds | parameters (M) | {experiment.split} {score} | "
        "training loss | images/s | checkpoint (MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in experiment.variants:
        runs = [outcome for outcome in outcomes if outcome.label == variant.label]
        if not runs:
            continue
        scores = [run.score for run in runs]
        spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(runs) > 1 else ""
        lines.append(
            f"| {variant.label} | {len(runs)} | {runs[0].parameters / 1e6:.2f} | "
            f"{statistics.fmean(scores):.3f}{spread} | "
            f"{statistics.fmean(run.loss for run in runs):.3f} | "
            f"{statistics.median(run.images_per_second for run in runs):.1f} | "
            f"{runs[0].checkpoint_mb:.1f} |"
        )
    return "\n".join(lines)


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")
