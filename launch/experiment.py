"""Runs one of the posts' experiments: trains what it compares and writes a table and curves.

python launch/experiment.py NAME [--scale=cpu|full] [--seeds=0,1,2] [--config.data.root=FOLDER]

`--list` names the experiments. The same command goes on after an interruption.
"""

import argparse
from pathlib import Path

from attnseg.core.errors import check
from attnseg.recipe import command
from attnseg.recipe.experiment import run_experiment
from attnseg.recipe.experiments import EXPERIMENTS, SCALES

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("name", nargs="?", help="which one")
parser.add_argument("--list", action="store_true", help="name the experiments, then stop")
parser.add_argument("--scale", choices=SCALES, default="cpu", help="cut down, or the whole recipe")
parser.add_argument("--seeds", default="0", help="comma between them")
parser.add_argument("--output", default="runs/experiments", help="folder of the runs")


def main(options, changes):
    if options.list:
        print("\n".join(f"{name:20} {e.title}; {e.claim}" for name, e in EXPERIMENTS.items()))
        return
    check(bool(options.name), f"name an experiment: {', '.join(EXPERIMENTS)}.")
    parts = options.seeds.split(",")
    check(all(p.isdigit() for p in parts), f"--seeds={options.seeds} are not numbers, e.g. 0,1,2.")
    run_experiment(
        options.name,
        CONFIGS,
        options.output,
        scale=options.scale,
        seeds=[int(part) for part in parts],
        changes=changes,
    )


if __name__ == "__main__":
    command.run(parser, main)
