"""How fast a configuration's input is, and which of its stages takes the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import check
from attnseg.core.mesh import make_mesh
from attnseg.core.types import IMAGE, Batch
from attnseg.data.timing import HOST_STAGES, Stages, time_loader, time_stages
from attnseg.recipe import assemble
from attnseg.training.evaluate import to_device

TRANSFER, DEVICE = "transfer", "augment and normalise"
_REPEATS = 3  # passes over the same batch on the device


def describe_speed(config: ConfigDict, batches: int = 8) -> str:
    """Times the training input of `config` and tells it in a table.

    The stages are clocked one after the other in one thread; then the loader runs as in training,
    with its workers and all stages at once, and its images are counted.

    Args:
      config: the run.
      batches: how many to time, after those that fill the loader.

    Raises:
      UserError: nothing to time, or whatever is wrong with configuration and data.
    """
    check(batches >= 1, f"{batches} batches cannot be timed; use at least 1.")
    source = assemble.cached(config, assemble.open_split(config, "train"))
    size = config.data.batch_size
    stages = time_stages(
        source,
        geometry=assemble.geometry(config),
        batch_size=size,
        batches=batches,
        seed=config.seed,
        max_skipped=assemble.max_skipped(config),
    )
    stream = assemble.train_batches(config, source, 0)
    try:
        began = time.perf_counter()
        batch = next(stream)
        first = time.perf_counter() - began
        # What lies ready when the clock starts would otherwise count as speed.
        warm = config.data.prefetch * max(1, config.data.workers)
        seconds = time_loader(stream, warm=warm, batches=batches)
    finally:
        stream.close()
    on_device = _time_device(config, batch)
    lines = [_headline(config, source, stages)]
    lines += _table(stages, {name: s / size for name, s in on_device.items()})
    lines.append(_loader(config, size * batches / seconds, first))
    if isinstance(source, data.Decoded):
        lines.append(source.describe())
    return "\n".join(lines)


def _time_device(config: ConfigDict, batch: Batch) -> dict[str, float]:
    """Seconds for one batch of what happens behind the loader."""
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    task = assemble.build_task(config)

    def prepare(batch: Batch, key: jax.Array) -> Any:
        return task.inputs(task.augment(batch, key)[IMAGE])

    key, jitted = jax.random.key(config.seed), jax.jit(prepare)
    there = to_device(batch, mesh)
    jax.block_until_ready(jitted(there, key))  # compiles
    return {
        TRANSFER: _best(lambda: to_device(batch, mesh)),
        DEVICE: _best(lambda: jitted(there, key)),
    }


def _best(function: Callable[[], Any]) -> float:
    """The least seconds of a few calls."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def _headline(config: ConfigDict, source: data.Source, stages: Stages) -> str:
    left = f", {stages.left_out} unreadable ones left out" if stages.left_out else ""
    crop = "x".join(map(str, config.data.crop))
    return (
        f"{config.data.name}: {len(source)} training examples, crop {crop}; {stages.images} images "
        f"in batches of {config.data.batch_size}, one after the other{left}"
    )


def _table(stages: Stages, on_device: dict[str, float]) -> list[str]:
    """A line for each stage: where, milliseconds an image, images a second by itself."""
    per_image = {name: stages.seconds.get(name, 0.0) / stages.images for name in HOST_STAGES}
    places = dict.fromkeys(HOST_STAGES, "host") | dict.fromkeys(on_device, "device")
    everything = per_image | on_device
    total = sum(per_image.values())
    lines = [f"{'stage':22} {'':6} {'ms an image':>11} {'images/s':>10} {'of the host':>11}"]
    for name, seconds in everything.items():
        share = f"{100 * seconds / total:9.0f} %" if name in per_image else ""
        rate = f"{1 / seconds:10.0f}" if seconds else f"{'':10}"
        lines.append(f"{name:22} {places[name]:6} {1e3 * seconds:11.3f} {rate} {share}".rstrip())
    lines.append(
        f"{'host, all stages':22} {'':6} {1e3 * total:11.3f} {1 / total:10.0f} "
        f"{100:9} %: what one worker can do alone"
    )
    return lines


def _loader(config: ConfigDict, rate: float, first: float) -> str:
    workers = config.data.workers
    if not workers:
        of = f"with {config.data.prefetch} threads of this process"
    else:
        each = f"{rate / workers:.1f} a worker"
        of = f"with {workers} worker process{'es' if workers > 1 else ''}, {each}"
    return f"loader: {rate:.1f} images/s {of}; the first batch came after {first:.1f} s"
