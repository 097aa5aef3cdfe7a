"""Looks inside a network and its mistakes.

python launch/visualize.py attention --workdir=DIR [--image=FILE] [--pixel=Y,X ...] [--layers=REGEX]
python launch/visualize.py bases     --workdir=DIR [--image=FILE] [--layers=REGEX]
python launch/visualize.py field     --workdir=DIR [--workdir=DIR ...] [--image=FILE ...]
python launch/visualize.py errors    --workdir=DIR [--split=val] [--count=6]

attention  where the layers look for a pixel: criss-cross after R = 1, 2, ..., heads of SegFormer,
           BoTNet, Swin and non-local blocks
bases      maps of no pixel: bases of Hamburger and EMANet, gates of SegNeXt, modulation of
           Conv2Former
field      effective receptive fields of every stage, with the squares that hold 50 % and 90 %
errors     the worst images of a split, and the pairs of classes that are confused most

--config=FILE, with --config.init.weights=FILE or random weights, stands for --workdir everywhere
but in errors. An --image is a file, SPLIT:NUMBER of the run's data set, or in field also noise.
"""

import argparse

from attnseg.recipe import command, mistakes, visualize

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("what", choices=["attention", "bases", "field", "errors"])
parser.add_argument("--workdir", action="append", default=[], help="folder of a run")
parser.add_argument("--config", action="append", default=[], help="configuration file")
parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
parser.add_argument("--image", action="append", default=[], help="file, SPLIT:NUMBER or noise")
parser.add_argument("--size", type=command.pair, help="H,W to stretch images to")
parser.add_argument("--pixel", type=command.pair, action="append", help="Y,X; default the centre")
parser.add_argument("--layers", help="regular expression for names of maps")
parser.add_argument("--split", help="of errors; default the run's eval.split")
parser.add_argument("--count", type=int, default=6, help="of errors: images that are drawn")
parser.add_argument("--output", help="PNG, for errors a folder; default WHAT.png, WORKDIR/errors")


def main(options, changes):
    if options.what == "errors":
        mistakes.report(
            command.only(options.workdir, "--workdir"),
            options.output,
            split=options.split,
            count=options.count,
            checkpoint=options.checkpoint,
            changes=changes,
        )
        return
    networks = [
        visualize.open_network(**place, checkpoint=options.checkpoint, changes=changes)
        for place in command.places(options.workdir, options.config)
    ]
    output = options.output or f"{options.what}.png"
    if options.what == "field":
        visualize.fields(networks, options.image or [None], output, size=options.size)
        return
    network = command.only(networks, "--workdir or --config")
    file = command.only(options.image or [None], "--image")
    image = visualize.read_image(network, file, options.size)
    if options.what == "bases":
        visualize.activations(network, image, output, options.layers)
    else:
        centre = (image.shape[0] // 2, image.shape[1] // 2)
        visualize.attention(network, image, options.pixel or [centre], output, options.layers)


if __name__ == "__main__":
    command.run(parser, main)
