"""What happens at a loss or gradient that is not finite: a report, the batch on disk, stop or skip.

The train step itself leaves such an update out (`attnseg.training.step`), so the state still holds
the parameters that met the batch, and the gradient can be taken once more, block by block.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from attnseg.core import processes
from attnseg.core.errors import UserError
from attnseg.core.tree import named_leaves
from attnseg.core.types import SIGNALS, Batch
from attnseg.training.state import TrainState

FOLDER = "nonfinite"
RAISE, SKIP = MODES = ("raise", "skip")
_ADVICE = "Lower optim.lr, lengthen schedule.warmup_steps or set optim.clip_norm"


def block_norms(grads: Any) -> dict[str, jax.Array]:
    """Norm of the gradient of each block: of all parameters that share their first two names."""
    squares: dict[str, jax.Array] = {}
    for name, leaf in named_leaves(grads):
        block = "/".join(name.split("/")[:-1][:2]) or name
        squares[block] = squares.get(block, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return {block: jnp.sqrt(total) for block, total in squares.items()}


class Guard:
    """Looks at each step's metrics once they are there.

    Attributes:
      count: updates left out so far in the run.
    """

    def __init__(
        self,
        workdir: str | Path,
        gradients: Callable[[TrainState, Batch], tuple[jax.Array, Any, Any]],
        *,
        mode: str,
        most: int,
        say: Callable[[str], None],
    ):
        """
        Args:
          workdir: batches go to ``WORKDIR/nonfinite/step_STEP.npz``.
          gradients: from `attnseg.training.step.make_gradients`.
          mode: "raise", or "skip" to go on without the update.
          most: of skip: updates of the run that may be left out.
          say: takes each line for the terminal.
        """
        self.count = 0
        self._folder = Path(workdir) / FOLDER
        self._norms = processes.compiled_together(
            jax.jit(lambda state, batch: block_norms(gradients(state, batch)[2]))
        )
        self._mode, self._most, self._say = mode, most, say

    def met(self, step: int, metrics: dict[str, Any], state: TrainState, batch: Batch) -> None:
        """Reports step number `step`, 1 for the first, whose loss or gradient is not finite.

        Args:
          metrics: its ``loss``, ``grad_norm`` and ``lr``.
          state: the state after it.
          batch: what it was given, on the devices.

        Raises:
          UserError: the run is not to skip it, or skipped too many.
        """
        self.count += 1
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        name = "grad_norm" if np.isfinite(values["loss"]) else "loss"
        before = state.replace(step=state.step - 1)
        batch = {k: v for k, v in batch.items() if k != SIGNALS}
        norms = jax.device_get(self._norms(before, batch))
        self._say(f"step {step}: norm of the gradient by block")
        for block, norm in norms.items():
            self._say(f"  {block:40} {norm:.3e}")
        told = f"{name} is {values[name]} at step {step} (lr {values['lr']:.2e})"
        kept = self._store(step, batch, values)
        if self._mode == RAISE:
            raise UserError(
                f"{told}; {kept}, and no checkpoint was written since it was finite. {_ADVICE}, or "
                "skip such steps with train.nonfinite=skip."
            )
        if self.count > self._most:
            raise UserError(
                f"{told}; {kept}; that makes {self.count} steps, more than train.max_nonfinite="
                f"{self._most}. {_ADVICE}."
            )
        self._say(f"{told}; its update is left out ({self.count} of {self._most}), {kept}")

    def _store(self, step: int, batch: Batch, values: dict[str, float]) -> str:
        """Writes the global batch; says where it is."""
        if processes.count() > 1:
            batch = multihost_utils.process_allgather(batch, tiled=True)
        path = self._folder / f"step_{step}.npz"
        if processes.index() == 0:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, step=step, **values, **jax.device_get(batch))
            except OSError as error:
                return f"its batch could not be written to {path} ({error.strerror})"
        return f"its batch is in {path}"
