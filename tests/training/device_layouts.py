"""Losses of a model family on 1, 2 and 8 devices, data parallel and FSDP, as JSON.

python tests/training/device_layouts.py FAMILY DATA, with 8 devices.
"""

import dataclasses
import json
import sys

import jax
import overnight

from attnseg.core.mesh import make_mesh
from attnseg.recipe import assemble, load_config
from attnseg.training import loop
from attnseg.training.evaluate import evaluate, jit_eval_step, to_device

STEPS = 6
LAYOUTS = {"1": (1, 1), "2": (2, 1), "8": (8, 1), "2 fsdp": (1, 2), "2 x 4 fsdp": (2, 4)}
SMALL = {"model.backbone.depths": (1, 1, 1, 1)}
# Narrow heads, too: of the millions of sums that a wide one gives to its ReLU, one or another is
# zero but for rounding, and on which side of it decides about a pixel's share of the gradient.
FAMILIES = {
    "segformer": (
        "segformer_b0.py:folder",
        {"model.backbone.widths": (8, 16, 40, 64), "model.head.width": 16},
    ),
    "segnext": (
        "segnext_t.py:folder",
        {
            "model.backbone.widths": (8, 16, 32, 64),
            "model.head.width": 16,
            "model.head.rank": 4,
            "model.head.groups": 4,
        },
    ),
    "ccnet": (
        "ccnet_r50.py:folder",
        {"model.backbone.width": 8, "model.head.width": 16, "model.aux_head.width": 8},
    ),
    "classifier": (
        "mit_b0.py:cifar10",
        {
            "model.backbone.widths": (8, 16, 40, 64),
            "augment.mixup": 0.8,
            "augment.cutmix": 1.0,
            "data.name": "folder",
        },
    ),
}


def results_of(family, layout, data, trained=None):
    """Training losses, and the scores of what `trained` holds, by default what this one trained.

    Networks of two layouts differ by rounding, which moves pixels that are on the edge between two
    classes; so all score the same one.
    """
    name, changes = FAMILIES[family]
    job = "classes" if family == "classifier" else "pairs"
    shared = {k: v for k, v in overnight.SHARED.items() if "drop_path" not in k}
    shared |= {
        "data.root": f"{data}/{job}",
        "data.prepared": f"{data}/prepared",
        "data.batch_size": 8,
        "data.workers": 0,
        "eval.batch_size": 8,
    }
    config = load_config(str(overnight.ROOT / "configs" / name), {**shared, **SMALL, **changes})
    train, val = (assemble.open_split(config, split) for split in ("train", "val"))
    job = assemble.build_job(config, train=train, val=val)
    axes = LAYOUTS[layout]
    mesh = make_mesh(*axes, devices=jax.devices()[: axes[0] * axes[1]])
    job = dataclasses.replace(job, evaluation=dataclasses.replace(job.evaluation, mesh=mesh))
    shardings = loop.abstract_state(job)[1]
    state = loop.initial_state(job, shardings)
    step, batches, found = loop.jit_train_step(job, shardings), job.train_batches(0), []
    for _ in range(STEPS):
        state, metrics = step(state, to_device(next(batches), mesh))
        found.append(float(metrics["loss"]))
    batches.close()
    split = sum("fsdp" in str(x.sharding.spec) for x in jax.tree_util.tree_leaves(state.params))
    trained = jax.device_get(state) if trained is None else trained
    state = jax.device_put(trained, shardings)
    scores = evaluate(job.evaluation, jit_eval_step(job.evaluation), state)
    return {"losses": found, "split": split, "scores": scores}, trained


if __name__ == "__main__":
    family, data = sys.argv[1:]
    results, trained = {}, None
    for layout in LAYOUTS:
        results[layout], trained = results_of(family, layout, data, trained)
    print("RESULTS " + json.dumps(results))
