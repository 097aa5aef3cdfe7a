"""Runs NAME.stablehlo on a picture: `python run_exported.py NAME.stablehlo IMAGE OUTPUT.png`.

Needs jax, flatbuffers, numpy and pillow, and nothing of attnseg: copy this file where you want.
"""

import json
import sys
from pathlib import Path

import jax.export
import numpy as np
from PIL import Image


def load(path):
    """The function images [n h w 3] -> result of an exported file, and its description."""
    program = jax.export.deserialize(bytearray(Path(path).read_bytes()))
    return jax.jit(program.call), json.loads(Path(path).with_suffix(".json").read_text())


def prepare(picture, about):
    """A PIL image as the array [1 h w 3] that the program takes."""
    wanted, step = about["images"]["size"], about["images"]["multiple"]
    height, width = wanted or (max(1, round(side / step)) * step for side in picture.size[::-1])
    pixels = np.asarray(picture.convert("RGB").resize((width, height)))[None]
    if about["images"]["dtype"] == "uint8":
        return pixels
    return ((pixels - np.array(about["mean"])) / about["std"]).astype(np.float32)


if __name__ == "__main__":
    run, about = load(sys.argv[1])
    picture = Image.open(sys.argv[2])
    result = np.asarray(run(prepare(picture, about)))[0]
    if about["task"] == "classification":
        best = result if about["result"] == "labels" else result.argmax(-1)
        raise SystemExit(print(about["classes"][int(best)]))
    labels = result if about["result"] == "labels" else result.argmax(-1)
    output = Image.fromarray(labels.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    output.putpalette(np.array(about["palette"], np.uint8).tobytes())
    output.save(sys.argv[3])
