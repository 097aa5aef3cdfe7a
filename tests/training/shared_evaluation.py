"""One process of an evaluation that several share; the first prints the scores.

The environment says which one; see `attnseg.core.processes.start`.
"""

import dataclasses
import json

import jax
import numpy as np
import pixelwise
from jax.sharding import NamedSharding, PartitionSpec

from attnseg.core import processes
from attnseg.core.mesh import make_mesh
from attnseg.core.types import IMAGENET
from attnseg.data import EvalResize, eval_batches
from attnseg.infer import Views
from attnseg.tasks.segmentation import Segmentation
from attnseg.training.evaluate import Evaluation, evaluate, jit_eval_step
from attnseg.training.state import weights_only

SIZES = ((64, 96), (50, 70), (64, 96), (33, 90), (64, 64))


class Drawn:
    """This process's share of five images, most of other sizes."""

    def __init__(self, share):
        self.numbers = range(len(SIZES))[share]

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        return pixelwise.example(SIZES[number], name=str(number), period=7 + number)

    def __repr__(self):
        return f"Drawn({self.numbers})"


def main():
    processes.start()
    source = Drawn(slice(jax.process_index(), None, jax.process_count()))
    mesh = make_mesh(fsdp=jax.device_count())
    evaluation = Evaluation(
        init=pixelwise.init,
        apply=pixelwise.apply,
        task=Segmentation(tuple(map(str, range(pixelwise.K))), IMAGENET),
        batches=lambda: eval_batches(source, transform=EvalResize(), batch_size=4),
        mesh=mesh,
        examples=lambda: (source[index] for index in range(len(source))),
        boundary=0.02,
    )
    # A parameter that no process has in full.
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    scale = jax.make_array_from_callback((4,), split, lambda at: np.ones(4, np.float32)[at])
    state = weights_only({"params": {"scale": scale}})
    views = Views("slide", (32, 32), (20, 20), flip=True)
    for way in (evaluation, dataclasses.replace(evaluation, views=views)):
        scores = evaluate(way, jit_eval_step(way), state)
        if jax.process_index() == 0:
            images = [dataclasses.astuple(image) for image in scores.images]
            print(json.dumps([scores, scores.confusion.tolist(), images]))


if __name__ == "__main__":
    main()
