"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax

from attnseg.core.errors import check

Schedule = Callable[[int], float]
SCHEDULES = ("poly", "cosine", "step", "constant")


def make_schedule(
    name: str,
    *,
    lr: float,
    steps: int,
    warmup_steps: int = 0,
    warmup_ratio: float = 1e-6,
    power: float = 1.0,
    end_lr: float = 0.0,
    every: int = 1,
    gamma: float = 0.1,
) -> optax.Schedule:
    """Decay from `lr` to `end_lr` over `steps`, times a linear warm-up.

    As in mmcv, warm-up multiplies the decayed rate by a factor rising from `warmup_ratio` to 1,
    so that the decay counts from step 0.

    Args:
      name: "poly" ((1 - t)^power), "cosine", "constant", or "step" (gamma^(step // every), torch's
        StepLR, whatever `steps` is).
      lr: peak rate.
      steps: length of training.
      warmup_steps: length of the warm-up; a training shorter than it only warms up.
      warmup_ratio: factor at step 0.
      power: exponent of "poly".
      end_lr: rate at the end; of "step": that it tends to; of "constant": unused.
      every: steps from one drop of "step" to the next.
      gamma: factor of "step" at each drop.

    Raises:
      UserError: unknown name.
    """
    check(name in SCHEDULES, f'schedule.name="{name}" is none of {", ".join(SCHEDULES)}.')

    def curve(step):
        t = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
        if name == "poly":
            return (1.0 - t) ** power
        if name == "cosine":
            return 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        if name == "step":
            # In integers: a quotient of float32 may fall short of the drop.
            return jnp.float32(gamma) ** (jnp.asarray(step, jnp.int32) // every)
        return jnp.ones_like(t)

    def schedule(step):
        rate = end_lr + (lr - end_lr) * curve(step)
        if warmup_steps:
            progress = jnp.minimum(jnp.asarray(step, jnp.float32) / warmup_steps, 1.0)
            rate = rate * (1.0 - (1.0 - progress) * (1.0 - warmup_ratio))
        return rate

    return schedule
