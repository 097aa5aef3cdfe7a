"""Draws the curves of several runs side by side and prints a table of them.

python launch/compare.py RUN... [--output=compare.png] [--split=val] [--metric=miou]

RUN      folder of a run; all of one task, on one data set
metric   miou, macc, iou/CLASS, ... of segmentation, top1 of classification: as in metrics.jsonl
"""

import argparse

from attnseg.core.errors import check
from attnseg.recipe import command, compare

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
parser.add_argument("--output", default="compare.png", help="picture to write")
parser.add_argument("--split", help="of the scores; default the one the runs were evaluated on")
parser.add_argument("--metric", help="default miou, for classification top1")


def main(options, changes):
    check(not changes, "--config.KEY changes nothing here: runs are read as they are.")
    compare.compare(options.runs, options.output, split=options.split, metric=options.metric)


if __name__ == "__main__":
    command.run(parser, main)
