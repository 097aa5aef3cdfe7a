"""A tiny run in a process of its own, which kills itself at a chosen point.

python tests/training/overnight.py JOB DATA WORKDIR '{"kind": ..., "number": ..., "signal": ...}'

kind "step": after the NUMBER-th step of this process; "evaluation": at its NUMBER-th batch of
evaluation; "save": MS milliseconds after the NUMBER-th save began; "write" and "prune": at the
NUMBER-th file or folder made, renamed or removed among the checkpoints.
"""

import json
import os
import signal
import sys
import threading
import time
import zlib
from multiprocessing import shared_memory
from pathlib import Path

MARK = "ATTNSEG_OVERNIGHT"  # set for a test's processes, workers included, so that it finds them
if MARK in os.environ:
    shared_memory._SHM_NAME_PREFIX = f"/{os.environ[MARK]}_"

ROOT = Path(__file__).parents[2]
SHARED = {
    "data.batch_size": 4,
    "data.crop": (32, 32),
    "data.workers": 1,
    "data.prefetch": 2,
    "train.ema": 0.9,
    "train.steps": 12,
    "checkpoint.every": 2,
    "eval.every": 4,
    "eval.batch_size": 4,
    "eval.overlays": 0,
    "log.every": 1,
    "schedule.warmup_steps": 2,
    "model.backbone.depths": (1, 1, 1, 1),
    "model.backbone.drop_path": 0.2,
}
JOBS = {
    "segformer": (
        "segformer_b0.py:folder",
        {
            "model.backbone.widths": (8, 16, 16, 24),
            "model.backbone.heads": (1, 2, 2, 3),
            "model.head.width": 16,
            "train.epochs": None,
        },
    ),
    "segnext": (
        "segnext_t.py:folder",
        {
            "model.backbone.widths": (8, 16, 16, 24),
            "model.head.width": 16,
            "model.head.rank": 4,
            "model.head.groups": 4,
            "train.epochs": None,
        },
    ),
    "mit": (
        "mit_b0.py:cifar10",
        {
            "model.backbone.widths": (8, 16, 16, 24),
            "model.backbone.heads": (1, 2, 2, 3),
            "augment.mixup": 0.8,
            "augment.cutmix": 1.0,
            "data.name": "folder",
            "eval.split": "val",
            "train.epochs": None,
        },
    ),
}


def changes(job, data, **more):
    """The overrides of a job on a folder made by `make_data`."""
    root = Path(data) / ("classes" if job == "mit" else "pairs")
    common = {"data.root": str(root), "data.prepared": str(Path(data) / "prepared")}
    more = {k.replace("__", "."): v for k, v in more.items()}
    return {**SHARED, **JOBS[job][1], **common, **more}


def config(job, data, **more):
    from attnseg.recipe import load_config

    return load_config(str(ROOT / "configs" / JOBS[job][0]), changes(job, data, **more))


def make_data(folder):
    """24 training and 10 validation images for each job."""
    import numpy as np
    import own_folders as own

    for split, count in (("train", 24), ("val", 10)):
        for number in range(count):
            seed = number + 100 * (split == "val")
            label = np.kron(own.label(seed, (4, 4)), np.ones((8, 8), np.uint8))
            noise = np.random.default_rng(seed).integers(0, 60, (32, 32, 3))
            image = (60 * label[..., None] + noise).astype(np.uint8)
            root = folder / "pairs"
            own.write(root / "images" / split / f"{number}.png", image)
            own.write(root / "labels" / split / f"{number}.png", label)
            name = ("road", "car", "tree")[number % 3]
            own.write(folder / "classes" / split / name / f"{number}.png", image)
    (folder / "pairs" / "classes.txt").write_text(own.CLASSES)
    return folder


class Recorder:
    """Batches that also write what they are made of to WORKDIR/batches.txt."""

    def __init__(self, batches, start, path):
        self._batches, self._step, self._path = batches, start, path
        self.tally = batches.tally

    def __next__(self):
        batch = next(self._batches)
        self._step += 1
        sums = [zlib.crc32(batch[key].tobytes()) for key in ("image", "label")]
        with self._path.open("a") as file:
            file.write(json.dumps([self._step, *sums]) + "\n")
        return batch

    def close(self):
        self._batches.close()


def end(point):
    """Sends the signal and, unless it is one to be handled, does not come back."""
    number = signal.Signals[point["signal"]]
    print(f"{number.name} at {point}", flush=True)
    if point.get("group"):
        os.killpg(os.getpgrp(), number)
    else:
        os.kill(os.getpid(), number)
    if number == signal.SIGKILL:
        time.sleep(60)


def arrange(point, workdir):
    """Makes this process end itself at `point`."""
    from attnseg.recipe import assemble
    from attnseg.training.checkpoint import Checkpoints

    seen = {"step": 0, "evaluation": 0, "save": 0, "write": 0, "prune": 0}

    def reached(kind):
        seen[kind] += 1
        return point["kind"] == kind and seen[kind] == point["number"]

    eval_batches, save = assemble.eval_batches, Checkpoints.save

    def counted(*arguments):
        for batch in eval_batches(*arguments):
            if reached("evaluation"):
                end(point)
            yield batch

    def timed(*arguments):
        if reached("save"):
            threading.Timer(point["ms"] / 1000, end, [point]).start()
        return save(*arguments)

    assemble.eval_batches, Checkpoints.save = counted, timed
    kinds = {"os.mkdir": "write", "os.rename": "write"}
    kinds |= {"os.remove": "prune", "os.rmdir": "prune", "shutil.rmtree": "prune"}
    folder = str(workdir / "checkpoints")

    def hook(event, arguments):
        kind = kinds.get(event)
        if kind and folder in str(arguments[0]) and reached(kind):
            end(point)

    sys.addaudithook(hook)

    def say(line):
        print(line, flush=True)
        if line.startswith("step ") and "/" in line.split()[1] and reached("step"):
            end(point)

    return say


def main(job, data, workdir, point="{}", more="{}"):
    import attnseg
    from attnseg.recipe import assemble

    workdir, point = Path(workdir), json.loads(point)
    train_batches = assemble.train_batches

    def recorded(config, source, start):
        batches = train_batches(config, source, start)
        return Recorder(batches, start, workdir / "batches.txt")

    assemble.train_batches = recorded
    say = arrange(point, workdir) if point else print
    attnseg.train(config(job, data, **json.loads(more)), workdir, say=say)


if __name__ == "__main__":
    main(*sys.argv[1:])
