"""Checkpoints of a state of a few arrays: nothing to compile, all that a run stores."""

import jax
import numpy as np
import optax

from attnseg.core.tree import flat
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.state import create_state

SCORES = {2: 0.9, 4: 0.5, 6: 0.7}
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state_of(step, wide=4):
    """A state whose numbers tell its step."""
    params = {"a": np.full((3, wide), step, np.float32), "b": {"k": np.arange(8.0) * step}}
    variables = {"params": params, "batch_stats": {"mean": np.full(2, step / 2, np.float32)}}
    state = create_state(variables, optax.adamw(0.1), ema=True)
    return state.replace(step=np.int32(step))


def save(workdir, scores=SCORES, keep=2, checkpoints=None):
    """Writes a checkpoint for each ``{step: score}``."""
    opened = checkpoints or Checkpoints(workdir, keep=keep)
    for step, score in scores.items():
        opened.save(state_of(step), {"batches": step}, {} if score is None else {"miou": score})
    opened.close()


def open_run(workdir, keep=2):
    """The checkpoints, the state that a new start goes on from, and what is said meanwhile."""
    checkpoints, said = Checkpoints(workdir, keep=keep), []
    shapes = jax.eval_shape(lambda: state_of(0))
    shardings = jax.tree_util.tree_map(lambda _: HERE, shapes)
    state = checkpoints.restore_newest(shapes, shardings, said.append)
    return checkpoints, state, said


def is_of(state, step):
    """Whether every number of `state` is that of `step`."""
    expected = flat(state_of(step))
    return state is not None and all(
        np.array_equal(value, expected[name]) for name, value in flat(jax.device_get(state)).items()
    )
