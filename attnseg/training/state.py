"""Everything a training step reads and writes."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from attnseg.core.types import Params


@flax.struct.dataclass
class TrainState:
    """State of training after `step` updates.

    No random state is kept: the key of a step is ``fold_in(key(seed), step)``.
    """

    step: jax.Array  # i32 []
    params: Params
    batch_stats: Params  # running mean and variance of BatchNorm; empty without it
    opt_state: optax.OptState
    ema_params: Params | None  # moving average of the parameters, None when not asked for

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate and to publish."""
        return self.params if self.ema_params is None else self.ema_params


def weights_only(variables: dict[str, Any]) -> TrainState:
    """A state to evaluate: nothing but parameters and statistics."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
        ema_params=None,
    )


def create_state(variables: dict[str, Any], tx: optax.GradientTransformation, ema: bool):
    """State before the first step, from the variables of `model.init`."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        # A copy: the state is donated, and one buffer cannot be given away twice.
        ema_params=jax.tree_util.tree_map(jnp.copy, params) if ema else None,
    )
