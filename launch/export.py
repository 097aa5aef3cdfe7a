"""Writes a trained network for other programs.

python launch/export.py --workdir=DIR [--checkpoint=best|latest|STEP] [--format=stablehlo]
python launch/export.py --weights=FILE --config=configs/segformer_b0.py:DATA --output=PATH

  stablehlo    one program for CPU, CUDA and TPU that needs only JAX: launch/run_exported.py
  onnx         one graph for other runtimes; needs the extra "onnx"
  huggingface  of SegFormer: a folder that transformers' from_pretrained takes

A program is read back and compared with the network on three sizes before it is kept.
"""

import argparse
from pathlib import Path

from attnseg.core.errors import check
from attnseg.recipe import command, exporting
from attnseg.recipe.trained import find_step, load_published, load_trained

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--workdir", help="folder of a run")
parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
parser.add_argument("--weights", help="weight file in any known format")
parser.add_argument("--config", help="configuration that belongs to --weights")
parser.add_argument("--format", default="stablehlo", help=" | ".join(exporting.FORMATS))
parser.add_argument("--output", help="file or folder; default WORKDIR/export/MODEL.FORMAT")
parser.add_argument("--images", default="uint8", help="uint8 (RGB) | float32 (normalised)")
parser.add_argument("--result", default="labels", help=" | ".join(exporting.RESULTS))
parser.add_argument("--size", help="height,width to fix; default: any size where possible")


def parse_size(text):
    size = command.parse_value(text)
    fits = isinstance(size, tuple) and len(size) == 2
    check(
        fits and all(isinstance(s, int) and s > 0 for s in size),
        f"--size={text} is not a size; write --size=HEIGHT,WIDTH.",
    )
    return size


def main(options, changes):
    run, file = bool(options.workdir), (bool(options.weights), bool(options.config))
    check(
        (run, *file) in ((True, False, False), (False, True, True)),
        "give either --workdir=DIR alone, or --weights=FILE together with --config=FILE.",
    )
    check(run or options.output, "say where to with --output=PATH.")
    check(not (run and changes), "--config.KEY goes with --weights; a run has its configuration.")
    size = parse_size(options.size) if options.size else None
    if options.output:
        exporting.check_target(options.output, options.format)
    if run:
        step = find_step(options.workdir, options.checkpoint)
        trained = load_trained(options.workdir, str(step))
        about = {"run": Path(options.workdir).name, "step": step}
    else:
        trained = load_published(options.config, options.weights, changes)
        about = {"weights": Path(options.weights).name}
    name = f"{trained.config.model.name.replace('+', '_')}.{options.format}"
    output = options.output or Path(options.workdir) / "export" / name
    exporting.check_target(output, options.format)
    if options.format == "huggingface":
        exporting.export_folder(trained, output)
        return
    exporting.export_program(
        trained,
        output,
        format=options.format,
        images=options.images,
        result=options.result,
        size=size,
        about=about,
    )


if __name__ == "__main__":
    command.run(parser, main)
