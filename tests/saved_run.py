"""A run's folder with a checkpoint of given variables, without the training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnseg.core.tree import map_with_names
from attnseg.recipe import assemble
from attnseg.recipe.load import to_dict
from attnseg.recipe.run import CONFIG
from attnseg.training.checkpoint import Checkpoints, write_json
from attnseg.training.state import create_state


def random_variables(config, seed=0):
    """Variables of the configuration's model as training might leave them."""
    init = assemble.init_function(config, assemble.build_model(config))
    return fill(jax.eval_shape(init, jax.random.key(0)), seed)


def fill(shapes, seed=0):
    """Numbers for ``{"params", "batch_stats"}``; drawing real initial ones has to be compiled."""
    rng = np.random.default_rng(seed)

    def value(name, x):
        kind = name.rsplit("/", 1)[-1]
        if kind in ("scale", "var"):
            numbers = rng.uniform(0.5, 1.5, x.shape)
        elif x.ndim == 1:  # biases and means
            numbers = rng.normal(0, 0.2, x.shape)
        else:
            numbers = rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
        return jnp.asarray(numbers, x.dtype)

    return map_with_names(value, dict(shapes))


def save_run(workdir, config, checkpoints, ema=False):
    """Writes ``{step: (variables, scores)}`` as the checkpoints of a run of `config`."""
    source = assemble.open_split(config, "val")
    job = assemble.build_job(config, train=source, val=source)
    write_json(workdir / CONFIG, to_dict(config))
    keeper = Checkpoints(workdir, keep=10, metric=job.evaluation.task.best)
    for step, (variables, scores) in checkpoints.items():
        state = create_state(variables, optax.sgd(0.1), ema=ema)
        keeper.save(state.replace(step=state.step + step), {**job.meta, "batches": step}, scores)
    keeper.close()
