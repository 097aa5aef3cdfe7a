"""Evaluates one drawn image in windows and prints its scores and the process's peak memory.

python tests/training/large_image.py SIDE [--model=segformer_b0] [--window=1024] [--stride=768]
"""

import argparse
import json
import resource
import time

import jax
import jax.numpy as jnp
import pixelwise

from attnseg.core.mesh import make_mesh
from attnseg.core.types import IMAGENET
from attnseg.infer import Views
from attnseg.models import zoo
from attnseg.tasks.segmentation import Segmentation
from attnseg.training.evaluate import Evaluation, evaluate, jit_eval_step
from attnseg.training.state import weights_only


def main(options):
    task = Segmentation(tuple(map(str, range(pixelwise.K))), IMAGENET)
    if options.model:
        model = zoo.create_model(options.model, pixelwise.K)

        def init(key):
            return model.init(key, jnp.zeros((1, 64, 64, 3)), train=False)

        def apply(params, batch_stats, images):
            variables = {"params": params, "batch_stats": batch_stats}
            return model.apply(variables, images, train=False)
    else:
        init, apply = pixelwise.init, pixelwise.apply

    evaluation = Evaluation(
        init=init,
        apply=apply,
        task=task,
        batches=lambda: iter(()),
        mesh=make_mesh(devices=jax.devices()[:1]),
        views=Views("slide", (options.window,) * 2, (options.stride,) * 2),
        examples=lambda: iter([pixelwise.example((options.side,) * 2)]),
        boundary=0.02,
    )
    state = weights_only(jax.jit(init)(jax.random.key(0)))
    started = time.time()
    scores = evaluate(evaluation, jit_eval_step(evaluation), state)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {n: scores[n] for n in ("miou", "aacc", "mbiou", "loss")}
    found |= {"pixels": int(scores.confusion.sum()), "programs": scores.programs}
    print(json.dumps(found | {"seconds": round(time.time() - started, 1), "peak_gib": peak}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int)
    parser.add_argument("--model")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=768)
    main(parser.parse_args())
