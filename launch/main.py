"""Trains a model and evaluates it; a run that was interrupted goes on where it stopped.

python launch/main.py --config=configs/segformer_b0.py[:DATA] [--workdir=DIR] [--config.a.b=V]
"""

import argparse

from attnseg.recipe import command, load_config
from attnseg.recipe import train as train_run
from attnseg.recipe.run import plan

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--config", required=True, help="configuration file, with :DATA if wanted")
parser.add_argument("--workdir", help="folder of the run; default runs/MODEL-DATASET")
parser.add_argument("--dry_run", action="store_true", help="build and check everything, then stop")


def main(options, changes):
    config = load_config(options.config, changes)
    if options.dry_run:
        print(plan(config, options.workdir).describe())
        print("dry run: all is in order, nothing was trained")
    else:
        train_run(config, options.workdir)


if __name__ == "__main__":
    command.run(parser, main)
