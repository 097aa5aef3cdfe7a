"""Looks at a configuration without training.

python launch/show.py params|config|batch|labels --config=configs/segformer_b0.py[:DATA]

params  every parameter with its shape, decay and rate, and the totals
config  every key with its value
batch   a training batch as a picture, written to --output; with --time instead: how long each
        stage of the input takes, and images/s of all and of each worker
labels  pixels of each class in a split
"""

import argparse

from attnseg.recipe import command, inspect, load_config
from attnseg.recipe.timing import describe_speed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("what", choices=["params", "config", "batch", "labels"])
parser.add_argument("--config", required=True, help="configuration file, with :DATA if wanted")
parser.add_argument("--split", default="train", help="of labels")
parser.add_argument("--output", default="batch.png", help="picture that batch writes")
parser.add_argument("--time", action="store_true", help="of batch: time its stages")
parser.add_argument("--batches", type=int, default=8, help="of batch --time: how many")


def main(options, changes):
    config = load_config(options.config, changes)
    if options.what == "params":
        print(inspect.parameters(config))
    elif options.what == "config":
        print(inspect.configuration(config))
    elif options.what == "labels":
        print(inspect.labels(config, options.split))
    elif options.time:
        print(describe_speed(config, options.batches))
    else:
        print(inspect.batch(config, options.output))


if __name__ == "__main__":
    command.run(parser, main)
