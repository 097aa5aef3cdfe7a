"""Numbers for a checkpoint or for a weight file.

python launch/evaluate.py --workdir=DIR [--split=test] [--checkpoint=best|latest|STEP]
python launch/evaluate.py --weights=FILE --config=configs/segformer_b0.py:DATA
Windows, scales: --config.eval.mode=slide, --config.eval.scales=0.5,1.0, --config.eval.flip=true
"""

import argparse

from attnseg.core.errors import check
from attnseg.recipe import command, evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--workdir", help="folder of a run")
parser.add_argument("--weights", help="weight file in any known format")
parser.add_argument("--config", help="configuration that belongs to --weights")
parser.add_argument("--split", help="default: the configuration's eval.split")
parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
parser.add_argument(
    "--tta",
    action="store_true",
    help="the papers' six scales, 0.5 to 1.75, and their mirror images",
)
parser.add_argument("--output", help="folder to write to; default: WORKDIR/evaluation/SPLIT")


def main(options, changes):
    run, file = bool(options.workdir), (bool(options.weights), bool(options.config))
    check(
        (run, *file) in ((True, False, False), (False, True, True)),
        "give either --workdir=DIR alone, or --weights=FILE together with --config=FILE.",
    )
    if options.tta:
        changes = {"eval.scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "eval.flip": True, **changes}
    evaluate(
        options.workdir or options.config,
        weights=options.weights,
        split=options.split,
        checkpoint=options.checkpoint,
        changes=changes,
        output=options.output,
    )


if __name__ == "__main__":
    command.run(parser, main)
