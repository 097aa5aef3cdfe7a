"""A page in the browser to try a trained network on: drop an image, see its classes.

python launch/demo.py --workdir=DIR [--port=7860]
python launch/demo.py --weights=FILE --config=configs/NAME.py:DATA

Needs gradio: pip install 'attnseg[demo]'. Nothing leaves this machine; other machines reach the
page only with --host=0.0.0.0.
"""

import argparse
from pathlib import Path

from attnseg.recipe import command
from attnseg.recipe.demo_page import build_page, load_gradio, serve
from attnseg.recipe.predictor import add_network_arguments, predictor_loader
from attnseg.recipe.run import use_compilation_cache

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
add_network_arguments(parser)
parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
parser.add_argument("--port", type=int, help="default the first free one from 7860 on")


def main(options, changes):
    use_compilation_cache()
    load = predictor_loader(options, changes)
    load_gradio()
    name = Path(options.workdir or options.weights).name
    serve(build_page(load(), name), options.host, options.port)


if __name__ == "__main__":
    command.run(parser, main)
