"""A predictor out of a run's folder or a weight file: `attnseg.Predictor`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg import data, infer
from attnseg.core.errors import check
from attnseg.recipe.load import override, validate
from attnseg.recipe.trained import load_published, load_trained
from attnseg.recipe.views import eval_views

# Keys that say how an image is looked at; the others have done their work in training.
_KEYS = ("eval.", "data.crop", "data.keep_ratio", "augment.interpolation")


class Predictor(infer.Predictor):
    """See `attnseg.infer.Predictor`; this one also knows runs and weight files."""

    @classmethod
    def from_workdir(
        cls,
        workdir: str | Path,
        checkpoint: str | int = "best",
        *,
        changes: Mapping[str, Any] | None = None,
        batch: int = 1,
    ) -> Predictor:
        """The network of a run, with classes, palette, normalisation and sizes of its checkpoint.

        Args:
          workdir: folder of a run. Its data need not be there any more.
          checkpoint: "best", "latest" or a step.
          changes: configuration keys that differ, e.g. ``{"eval.mode": "slide"}``.
          batch: images or windows in one call of the network at most.

        Raises:
          UserError: no run or checkpoint there, or `changes` that change nothing here.
        """
        check_changes(changes)
        trained = load_trained(workdir, str(checkpoint))
        override(trained.config, changes or {})
        validate(trained.config)
        model, variables, info, config = trained
        return cls(model, variables, info, geometry=geometry(config, info), batch=batch)

    @classmethod
    def from_weights(
        cls,
        weights: str | Path,
        config: ConfigDict | str,
        *,
        changes: Mapping[str, Any] | None = None,
        batch: int = 1,
    ) -> Predictor:
        """The network of a weight file in any known format.

        Args:
          weights: the file.
          config: the configuration that belongs to it, or its file: model and data set.
          changes, batch: see `from_workdir`; any key may change.

        Raises:
          UserError: weights that do not fill the model.
        """
        trained = load_published(config, weights, changes, say=lambda _: None)
        model, variables, info, config = trained
        return cls(model, variables, info, geometry=geometry(config, info), batch=batch)


def check_changes(changes: Mapping[str, Any] | None) -> None:
    """Refuses configuration keys that do not change how a trained network predicts.

    Raises:
      UserError: there is one.
    """
    idle = [key for key in changes or {} if not key.startswith(_KEYS)]
    check(
        not idle,
        f"{', '.join(idle)} changes nothing once a network is trained; keys that do begin with "
        f"{', '.join(_KEYS)}.",
    )


def geometry(config: ConfigDict, info: data.DatasetInfo) -> infer.Views | data.CentreCrop:
    """How images are looked at, as in the evaluation of the run."""
    if info.task == "classification":
        return data.CentreCrop(
            crop=config.data.crop,
            share=config.eval.crop_pct,
            interpolation=config.augment.interpolation,
        )
    return eval_views(config)


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a trained network: a run, or a weight file and its configuration."""
    parser.add_argument("--workdir", help="folder of a run")
    parser.add_argument("--weights", help="weight file in any known format")
    parser.add_argument("--config", help="configuration that belongs to --weights")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")


def predictor_loader(
    options: argparse.Namespace, changes: Mapping[str, Any], batch: int = 1
) -> Callable[[], Predictor]:
    """What makes the predictor that `add_network_arguments` named; nothing is loaded yet.

    Raises:
      UserError: arguments that do not go together.
    """
    run, file = bool(options.workdir), (bool(options.weights), bool(options.config))
    check(
        (run, *file) in ((True, False, False), (False, True, True)),
        "give either --workdir=DIR alone, or --weights=FILE together with --config=FILE.",
    )
    check(batch >= 1, f"--batch={batch} is too small; use at least 1.")
    extra = {"changes": changes, "batch": batch}
    if run:
        check_changes(changes)
        return lambda: Predictor.from_workdir(options.workdir, options.checkpoint, **extra)
    return lambda: Predictor.from_weights(options.weights, options.config, **extra)
