"""SegFormer's experiment: Mix-FFN against learned positions, tested at other sizes.

python launch/resolution.py --workdir=DIR [--config=FILE] [--sizes=48,64,96] [--config.a.b=V]

Trains both networks alike in DIR/mix_ffn and DIR/learned, evaluates them at every size and writes
DIR/resolution.json and DIR/resolution.png. Without --config: SegFormer-B0 on the embedded data set
with crops of 64x64, 600 steps, minutes on two CPU cores.
"""

import argparse

from attnseg.recipe import command, resolution

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--workdir", required=True, help="folder for both runs and the results")
parser.add_argument("--config", help="configuration of a network with the backbone MiT")
parser.add_argument("--sizes", type=command.integers, default=(), help="heights of test images")
parser.add_argument("--split", help="default: the configuration's eval.split")


def main(options, changes):
    resolution.experiment(
        options.workdir,
        options.config,
        sizes=options.sizes,
        split=options.split,
        changes=changes,
    )


if __name__ == "__main__":
    command.run(parser, main)
