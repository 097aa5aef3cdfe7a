"""Speed and memory of models and operators, beside other implementations in the same run.

python launch/benchmark.py --suite=cpu|gpu|operators|memory [--output=NAME]
python launch/benchmark.py --model=segformer_b0 --size=512 --batch=2 --peers=torch,keras
python launch/benchmark.py --model=segformer_b0 --batch=32 --devices=4 --peers=
python launch/benchmark.py --model=segnext_l --batch=16 --dtype=bfloat16 --compile_for=h100

Every contestant has a process of its own; they run in alternation, never two at a time. Peers
need `pip install 'attnseg[peers]'`, here or in the environment of --peer_python. --compile_for
times nothing and asks no peers: it tells what memory our programs take on a GPU that need not be
here.
"""

import argparse
from pathlib import Path

from attnseg.benchmark import cases
from attnseg.benchmark.run import compile_for, run
from attnseg.benchmark.targets import TARGETS
from attnseg.core.errors import UserError, check

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--suite", help=f"one of {', '.join(cases.SUITES)}")
parser.add_argument("--model", help="a model in place of a suite, a name of attnseg.list_models()")
parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--classes", type=int, default=150)
parser.add_argument("--dtype", default="float32", help="or bfloat16")
parser.add_argument("--peers", default="torch", help="of torch, torch.compile, keras; '' for none")
parser.add_argument("--devices", type=int, default=1, help="that share the batch, ours alone")
parser.add_argument(
    "--only", default="", help="cases of the suite whose title has this, or one of A,B, in it"
)
parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant in each pass")
parser.add_argument("--peer_python", help="interpreter that has the peers installed")
parser.add_argument("--compile_for", help=f"a GPU: {', '.join(TARGETS)}; memory only, none needed")
parser.add_argument("--output", default="benchmark", help="path of the .md and .json, no ending")


def main(options):
    check(bool(options.suite) != bool(options.model), "give --suite or --model, one of the two.")
    check(options.rounds > 0, f"--rounds={options.rounds} must be 1 or more.")
    check(
        options.devices == 1 or (bool(options.model) and options.compile_for is None),
        "--devices goes with --model and without --compile_for.",
    )
    if options.suite:
        texts = [text for text in options.only.split(",") if text] or [""]
        chosen = [c for c in cases.suite(options.suite) if any(t in c.title for t in texts)]
        check(bool(chosen), f'--only="{options.only}" is in no title of suite {options.suite}.')
    else:
        numbers = (options.size, options.batch, options.classes, options.dtype, options.peers)
        chosen = cases.single(options.model, *numbers, options.devices)
    output = Path(options.output)
    if options.compile_for is not None:
        table = compile_for(chosen, options.compile_for, output)
    else:
        platform = options.suite if options.suite in ("cpu", "gpu") else None
        table = run(
            chosen,
            output,
            rounds=options.rounds,
            peer_python=options.peer_python,
            platform=platform,
        )
    print(f"\n{table.read_text(encoding='utf-8')}\nwrote {table}")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
