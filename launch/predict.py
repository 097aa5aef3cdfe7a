"""Predicts images, folders of them, and videos.

python launch/predict.py --workdir=DIR --input=IMAGE|FOLDER|PATTERN|VIDEO --output=DIR
python launch/predict.py --weights=FILE --config=configs/NAME.py:DATA --input=... --output=DIR

Writes OUTPUT/KIND/NAME.png for each kind of --save, sub-folders as in the input, and the shares of
the classes (of a classifier: the likeliest classes) to OUTPUT/predictions.csv. Exits with status 1
when files could not be read.
"""

import argparse
import sys

from attnseg.recipe import command
from attnseg.recipe.answers import KINDS, USUAL
from attnseg.recipe.predict import ON_ERROR, predict
from attnseg.recipe.predictor import add_network_arguments, predictor_loader
from attnseg.recipe.run import use_compilation_cache

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
add_network_arguments(parser)
parser.add_argument("--input", required=True, nargs="+", help="files, folders, patterns")
parser.add_argument("--output", required=True, help="folder for the answers")
parser.add_argument("--save", help=f"of {','.join(KINDS)}; default {','.join(USUAL)}")
parser.add_argument("--opacity", type=float, default=0.6, help="of overlays, 0 to 1")
parser.add_argument("--batch", type=int, default=4, help="images of one size in a call at most")
parser.add_argument("--on_error", default="skip", help=f"unreadable files: {' or '.join(ON_ERROR)}")


def main(options, changes):
    use_compilation_cache()
    report = predict(
        predictor_loader(options, changes, options.batch),
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
