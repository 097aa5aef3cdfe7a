"""Looks at a configuration without training.

python launch/show.py params|config|batch|labels --config=configs/segformer_b0.py[:DATA]

params  every parameter with its shape, decay and rate, and the totals
config  every key with its value
batch   training batches as a picture, written to --output
labels  pixels of each class in a split
"""

import argparse

from attnseg.recipe import command, inspect, load_config

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("what", choices=["params", "config", "batch", "labels"])
parser.add_argument("--config", required=True, help="configuration file, with :DATA if wanted")
parser.add_argument("--split", default="train", help="of labels")
parser.add_argument("--output", default="batch.png", help="picture that batch writes")


def main(options, changes):
    config = load_config(options.config, changes)
    if options.what == "params":
        print(inspect.parameters(config))
    elif options.what == "config":
        print(inspect.configuration(config))
    elif options.what == "labels":
        print(inspect.labels(config, options.split))
    else:
        print(inspect.batch(config, options.output))


if __name__ == "__main__":
    command.run(parser, main)
