"""Predicts images, folders of them, and videos.

python launch/predict.py --workdir=DIR --input=IMAGE|FOLDER|PATTERN|VIDEO --output=DIR
python launch/predict.py --weights=FILE --config=configs/NAME.py:DATA --input=... --output=DIR

Writes OUTPUT/KIND/NAME.png for each kind of --save, sub-folders as in the input, and the shares of
the classes (of a classifier: the likeliest classes) to OUTPUT/predictions.csv. Exits with status 1
when files could not be read.
"""

import argparse
import sys

from attnseg import Predictor
from attnseg.core.errors import check
from attnseg.recipe import command
from attnseg.recipe.answers import KINDS, USUAL
from attnseg.recipe.predict import ON_ERROR, predict
from attnseg.recipe.predictor import check_changes
from attnseg.recipe.run import use_compilation_cache

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--workdir", help="folder of a run")
parser.add_argument("--weights", help="weight file in any known format")
parser.add_argument("--config", help="configuration that belongs to --weights")
parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
parser.add_argument("--input", required=True, nargs="+", help="files, folders, patterns")
parser.add_argument("--output", required=True, help="folder for the answers")
parser.add_argument("--save", help=f"of {','.join(KINDS)}; default {','.join(USUAL)}")
parser.add_argument("--opacity", type=float, default=0.6, help="of overlays, 0 to 1")
parser.add_argument("--batch", type=int, default=4, help="images of one size in a call at most")
parser.add_argument("--on_error", default="skip", help=f"unreadable files: {' or '.join(ON_ERROR)}")


def loader(options, changes):
    """What makes the predictor, with its arguments checked."""
    run, file = bool(options.workdir), (bool(options.weights), bool(options.config))
    check(
        (run, *file) in ((True, False, False), (False, True, True)),
        "give either --workdir=DIR alone, or --weights=FILE together with --config=FILE.",
    )
    check(options.batch >= 1, f"--batch={options.batch} is too small; use at least 1.")
    extra = dict(changes=changes, batch=options.batch)
    if run:
        check_changes(changes)
        return lambda: Predictor.from_workdir(options.workdir, options.checkpoint, **extra)
    return lambda: Predictor.from_weights(options.weights, options.config, **extra)


def main(options, changes):
    use_compilation_cache()
    report = predict(
        loader(options, changes),
        options.input,
        options.output,
        save=options.save,
        opacity=options.opacity,
        on_error=options.on_error,
    )
    frames = f", {report.frames} frames" if report.frames else ""
    print(f"{report.images} images{frames} predicted; answers in {options.output}")
    for _, reason in report.failed:
        print(f"skipped: {reason}", file=sys.stderr)
    if report.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    command.run(parser, main)
