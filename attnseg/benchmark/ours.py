"""Our side of a benchmark: compiled programs, their cost and memory by XLA's account."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from attnseg.benchmark import operators, targets
from attnseg.benchmark.cases import OPERATORS, Case, shapes
from attnseg.core.compiler import compiler_options
from attnseg.core.errors import check
from attnseg.core.mesh import make_mesh, replicated, to_global
from attnseg.core.types import IMAGE, IMAGENET, LABEL, LOGITS, MASK
from attnseg.models.assembled import Classifier
from attnseg.models.zoo import create_model
from attnseg.tasks.classification import Classification
from attnseg.tasks.segmentation import Segmentation
from attnseg.training.state import create_state
from attnseg.training.step import make_train_step

RATE = 1e-5  # of AdamW, here and at the peers


def _compiled(
    mode: str, function: Callable, args: tuple, target: jax.Device | None = None, **kwargs
) -> tuple[Any, dict[str, float]]:
    """The program for `args`, here or for `target`, and what compiler and clock say of it."""
    start = time.perf_counter()
    if target is None:
        jitted = jax.jit(function, compiler_options=compiler_options(mode), **kwargs)
        program = jitted.lower(*args).compile()
    else:
        place = SingleDeviceSharding(target)
        args = jax.tree_util.tree_map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args
        )
        kwargs["out_shardings"] = place
        lowered = jax.jit(function, **kwargs).lower(*args)
        program = targets.compile_there(lowered)
    facts = {"compile_s": time.perf_counter() - start}
    memory = program.memory_analysis()
    if memory is not None:
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
        facts["memory"] = kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        facts["temporary"] = memory.temp_size_in_bytes
    cost = program.cost_analysis() or {}
    facts["flops"], facts["bytes"] = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
    return program, facts


def network(case: Case, target: jax.Device | None = None):
    """Forward pass and training step (augmentation off) of a model.

    Args:
      target: a GPU that is not here, see `targets`; the programs are compiled for it, not run.

    Returns:
      ``{mode: callable that runs and waits}``, ``{mode: facts of one device}``, number of
      parameters.

    Raises:
      UserError: fewer devices than the case asks for.
    """
    there = jax.devices()
    check(
        case.devices <= len(there),
        f"--devices={case.devices}: {len(there)} are here; a CPU counts as several with "
        f"JAX_NUM_CPU_DEVICES={case.devices} in the environment.",
    )
    mesh = make_mesh(devices=there[: case.devices])
    model = create_model(case.name, num_classes=case.width, dtype=case.dtype)
    rng = np.random.default_rng(0)
    h, w = case.size
    names = tuple(str(i) for i in range(case.width))
    if isinstance(model, Classifier):
        task = Classification(names, IMAGENET)
        label = rng.integers(0, case.width, case.batch)
    else:
        task = Segmentation(names, IMAGENET, photometric=False)
        label = rng.integers(0, case.width, (case.batch, h, w))
    images = rng.integers(0, 255, (case.batch, h, w, 3), dtype=np.uint8)
    mask = np.ones(case.batch, np.float32)
    batch = to_global({IMAGE: images, LABEL: np.asarray(label, np.int32), MASK: mask}, mesh)

    def apply(params, batch_stats, images, key):
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = {"dropout": key}
        out, new = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return out, new.get("batch_stats", {})

    tx = optax.adamw(RATE)
    step = make_train_step(apply, task, tx, optax.constant_schedule(RATE), seed=0)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def init(key):
        variables = model.init(key, jnp.zeros((1, h, w, 3)), train=False)
        return create_state(variables, tx, ema=False)

    def forward(state, images):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return model.apply(variables, task.inputs(images), train=False)[LOGITS]

    like = jax.eval_shape(init, jax.random.key(0))
    options = {"donate_argnums": 0, "out_shardings": replicated(mesh)}
    train, train_facts = _compiled("train", step, (like, batch), target, **options)
    infer, infer_facts = _compiled("infer", forward, (like, batch[IMAGE]), target)
    count = sum(x.size for x in jax.tree_util.tree_leaves(like.params))
    facts = {"infer": infer_facts, "train": train_facts}
    if target is not None:
        return {}, facts, count
    state = [init(jax.random.key(0))]

    def run_train() -> None:
        state[0], metrics = train(state[0], batch)
        jax.block_until_ready((state[0], metrics))

    def run_infer() -> None:
        jax.block_until_ready(infer(state[0], batch[IMAGE]))

    runs = {"infer": run_infer, "train": run_train}
    return runs, facts, count


def operator(case: Case, target: jax.Device | None = None):
    """Forward pass, and forward with gradients, of an operator; as `network`."""
    function = operators.FUNCTIONS[case.name]
    keys = jax.random.split(jax.random.key(0), 8)
    args = tuple(
        jax.random.normal(key, shape, case.dtype)
        for key, shape in zip(keys, shapes(case), strict=False)
    )
    seed = jnp.ones(jax.eval_shape(function, *args).shape, case.dtype)
    infer, infer_facts = _compiled("infer", function, args, target)
    both = operators.forward_and_gradient(function)
    train, train_facts = _compiled("train", both, (seed, *args), target)
    facts = {"infer": infer_facts, "train": train_facts}
    if target is not None:
        return {}, facts, 0
    runs = {
        "infer": lambda: jax.block_until_ready(infer(*args)),
        "train": lambda: jax.block_until_ready(train(seed, *args)),
    }
    return runs, facts, 0


def build(case: Case, target: jax.Device | None = None):
    """`operator` or `network`, by the case's name."""
    return (operator if case.name in OPERATORS else network)(case, target)


def device() -> str:
    """Kind of the device and the version of jax."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"


def peak() -> int | None:
    """Most bytes the device held, where it counts them."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")
