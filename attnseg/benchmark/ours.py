"""Our side of a benchmark: compiled programs, their cost and memory by XLA's account."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from attnseg.benchmark import account, operators, targets
from attnseg.benchmark.cases import OPERATORS, Case, shapes
from attnseg.benchmark.contestant import RATE, Contestant
from attnseg.core.compiler import compiler_options
from attnseg.core.errors import check
from attnseg.core.mesh import make_mesh, replicated, to_global
from attnseg.core.types import IMAGE, IMAGENET, LABEL, LOGITS, MASK
from attnseg.models.assembled import Classifier
from attnseg.models.zoo import create_model
from attnseg.tasks.classification import Classification
from attnseg.tasks.segmentation import Segmentation
from attnseg.training.state import create_state
from attnseg.training.step import FINITE, make_train_step

# What JAX calls the platform of `jax.default_backend()` when it lowers for one that it names.
_PLATFORMS = {"gpu": "cuda"}


def _compiled(
    mode: str,
    function: Callable,
    args: tuple,
    target: jax.Device | None = None,
    mesh_size: int = 1,
    **kwargs,
) -> tuple[Any, dict[str, float]]:
    """The program for `args`, here or for `target`, and what compiler and clock say of it."""
    if target is not None:
        place = SingleDeviceSharding(target)
        args = jax.tree_util.tree_map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args
        )
        kwargs["out_shardings"] = place
        jitted = jax.jit(function, **kwargs)
        return account.compiled(lambda: targets.compile_there(jitted.lower(*args)))
    jitted = jax.jit(function, compiler_options=compiler_options(mode), **kwargs)
    program, facts = account.compiled(lambda: jitted.lower(*args).compile())
    platform = jax.default_backend()
    if platform == "cpu":
        return program, facts | account.work(program)
    if mesh_size == 1:  # else these would be the operations of all devices
        name = _PLATFORMS.get(platform, platform)
        facts |= account.work_before_compilation(function, args, name)
    # At least what it is given and gives has to pass through the memory.
    return program, facts | {"bytes": facts.get("kept", 0.0)}


def network(case: Case, target: jax.Device | None = None) -> Contestant:
    """Forward pass and training step (augmentation off) of a model.

    Args:
      target: a GPU that is not here, see `targets`; the programs are compiled for it, and there
        is nothing to run.

    Returns:
      A contestant; its facts are those of one device.

    Raises:
      UserError: fewer devices than the case asks for, or gradients that are not finite.
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
    where = target, case.devices
    train, train_facts = _compiled("train", step, (like, batch), *where, **options)
    infer, infer_facts = _compiled("infer", forward, (like, batch[IMAGE]), *where)
    count = sum(x.size for x in jax.tree_util.tree_leaves(like.params))
    facts = {"infer": infer_facts, "train": train_facts}
    if target is not None:
        return _contestant({}, facts, count)
    state = [init(jax.random.key(0))]

    def run_train() -> tuple:
        state[0], metrics = train(state[0], batch)
        return state[0], metrics

    # A step that is not finite leaves out its update.
    check(bool(run_train()[1][FINITE]), f"{case.title}: the gradients of a step are not finite.")
    return _contestant(
        {"infer": lambda: infer(state[0], batch[IMAGE]), "train": run_train}, facts, count
    )


def _contestant(runs: dict, facts: dict, parameters: int = 0) -> Contestant:
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    platform = jax.default_backend()
    return Contestant(
        runs, jax.block_until_ready, device, platform, parameters=parameters, facts=facts
    )


def operator(case: Case, target: jax.Device | None = None) -> Contestant:
    """Forward pass, and forward with gradients, of an operator; as `network`."""
    function = operators.FUNCTIONS[case.name]
    keys = jax.random.split(jax.random.key(0), 8)
    args = tuple(
        jax.random.normal(key, shape, case.dtype)
        for key, shape in zip(keys, shapes(case), strict=False)
    )
    seed = jnp.ones(jax.eval_shape(function, *args).shape, case.dtype)
    infer, infer_facts = _compiled("infer", function, args, target)
    both = operators.forward_and_gradients(function)
    train, train_facts = _compiled("train", both, (seed, *args), target)
    facts = {"infer": infer_facts, "train": train_facts}
    runs = {"infer": lambda: infer(*args), "train": lambda: train(seed, *args)}
    return _contestant(runs if target is None else {}, facts)


def build(case: Case, target: jax.Device | None = None) -> Contestant:
    """`operator` or `network`, by the case's name."""
    return (operator if case.name in OPERATORS else network)(case, target)
