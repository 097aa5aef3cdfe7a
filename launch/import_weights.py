"""Looks into a weight file: its format, its licence, and what a model takes of it.

python launch/import_weights.py --weights=FILE --model=segformer_b0 --classes=150 [--output=NEW]
python launch/import_weights.py --weights=FILE --config=configs/segformer_b0.py:DATA [--output=NEW]

Prints what is loaded, what the model keeps at random, what it has no place for, and the fields
that the format implies. Nothing is trained or compiled.

--output writes the same weights, under the names they have, to a new .safetensors or .npz file:
one that --config.init.weights takes where torch is not installed.
"""

import argparse

import jax
import numpy as np

from attnseg import create_model, load_weights
from attnseg.core.errors import check
from attnseg.recipe import command, load_config
from attnseg.recipe.assemble import build_model
from attnseg.weights.export import check_target, variable_shapes, write_state
from attnseg.weights.read import read_state

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--weights", required=True, help="weight file in any known format")
parser.add_argument("--model", help="a name of attnseg.list_models(), or BACKBONE+HEAD")
parser.add_argument("--classes", type=int, help="number of classes of --model")
parser.add_argument("--config", help="configuration to take the model from")
parser.add_argument("--output", help="file to write, .safetensors or .npz")


def chosen_model(options, changes):
    named = (options.model is not None, options.classes is not None)
    check(
        (bool(options.config), *named) in ((True, False, False), (False, True, True)),
        "give either --model=NAME together with --classes=NUMBER, or --config=FILE alone.",
    )
    if options.config:
        return build_model(load_config(options.config, changes))
    check(not changes, "--config.KEY changes a configuration; give --config=FILE with it.")
    return create_model(options.model, options.classes)


def main(options, changes):
    if options.output:
        check_target(options.output)
    model = chosen_model(options, changes)
    state = read_state(options.weights)
    # Zeros stand for what the file lacks: drawing initial values would have to be compiled.
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes(model))
    report = load_weights(model, state, variables=zeros)[1]
    print(report.summary())
    for part, fields in report.fields.items():
        for field, value in fields.items():
            print(f"  implied: {part}.{field} = {value!r}")
    if options.output:
        write_state(options.output, state)
        print(f"{len(state)} arrays written to {options.output}")


if __name__ == "__main__":
    command.run(parser, main)
