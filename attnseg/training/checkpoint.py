"""Checkpoints: state, data position, configuration and versions in one step directory."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from attnseg.core.errors import UserError, check
from attnseg.training.state import TrainState, weights_only

FOLDER = "checkpoints"
PACKAGES = ("attnseg", "jax", "flax", "optax", "orbax-checkpoint", "grain")


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a checkpoint means."""
    return {name: metadata.version(name) for name in PACKAGES}


class Checkpoints:
    """The checkpoints of a run, `WORKDIR/checkpoints/STEP/`.

    Each holds the item ``state`` (arrays) and the item ``meta`` (JSON: data position, best score,
    configuration, label map, versions).

    Args:
      workdir: folder of the run.
      keep: how many of the latest to keep, besides the best.
      metric: name of the score that decides which is best; higher is better.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, metric: str = "miou"):
        policy = ocp.checkpoint_managers
        self.metric = metric
        self.folder = Path(workdir).absolute() / FOLDER
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics[metric],  # without it no metrics are stored
                best_mode="max",
                # `max_to_keep` with `best_fn` would delete the newest of a run that gets worse.
                preservation_policy=policy.AnyPreservationPolicy(
                    [
                        policy.LatestN(keep),
                        policy.BestN(
                            get_metric_fn=lambda m: m[metric],
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                enable_async_checkpointing=True,
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None without any."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best score; the newest if none was scored."""
        scored = {}
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics:
                scored[step] = metrics[self.metric]
        return max(scored, key=lambda s: (scored[s], s)) if scored else self.latest_step()

    def find(self, which: str) -> int:
        """The step meant by "best", "latest" or a number.

        Raises:
          UserError: it is not there.
        """
        steps = self._manager.all_steps()
        check(bool(steps), f"{self.folder} holds no complete checkpoint; train first.")
        named = {"best": self.best_step, "latest": self.latest_step}
        if which in named:
            return named[which]()
        check(
            which.isdigit() and int(which) in steps,
            f'there is no checkpoint "{which}" in {self.folder}; there are best, latest and '
            f"{', '.join(map(str, sorted(steps)))}.",
        )
        return int(which)

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing `state` as the checkpoint of its step; returns before it is on disk."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                meta=ocp.args.JsonSave({**meta, "versions": versions()}),
            ),
            metrics={self.metric: metrics[self.metric]} if self.metric in metrics else None,
        )

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def restore(self, step: int, state: TrainState, shardings: TrainState) -> TrainState:
        """Reads the state of `step` onto `shardings`.

        Args:
          state: shapes and types to expect, as from `jax.eval_shape`.

        Raises:
          UserError: the checkpoint does not fit `state`.
        """
        target = jax.tree_util.tree_map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
        )
        return self._read(step, target)

    def restore_weights(self, step: int, variables: dict[str, Any], sharding) -> TrainState:
        """Reads what evaluation needs of `step`: the averaged parameters, if there are any.

        Args:
          variables: shapes as from `jax.eval_shape(model.init)`.
          sharding: where to put them.

        Raises:
          UserError: the checkpoint does not fit the model.
        """
        saved = self._manager.item_metadata(step)["state"]
        averaged = isinstance(saved["ema_params"], dict)

        def target(tree: Any) -> Any:
            return jax.tree_util.tree_map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        wanted = {
            "ema_params" if averaged else "params": target(variables["params"]),
            "batch_stats": target(variables.get("batch_stats", {})),
        }
        restored = self._read(step, wanted, partial_restore=True)
        return weights_only(
            {
                "params": restored["ema_params" if averaged else "params"],
                "batch_stats": restored["batch_stats"],
            }
        )

    def _read(self, step: int, target: Any, partial_restore: bool = False) -> Any:
        arguments = ocp.args.PyTreeRestore(
            target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=partial_restore,
        )
        try:
            return self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"{self.folder / str(step)} cannot be restored: it was saved with another model, "
                "optimizer or train.ema, or is damaged. Use the configuration it was made with, "
                f"another --workdir, or delete that step. ({type(error).__name__})"
            ) from error

    def close(self) -> None:
        """Waits for the last save and releases the threads."""
        self._manager.close()


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
