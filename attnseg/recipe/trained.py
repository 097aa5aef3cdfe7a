"""A trained network out of the folder of its run, with all that its checkpoint says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import UserError, check
from attnseg.core.types import IMAGENET, Normalisation
from attnseg.models import zoo
from attnseg.recipe import assemble
from attnseg.recipe.load import from_dict, load_config, to_dict
from attnseg.training.checkpoint import FOLDER, Checkpoints
from attnseg.weights import load_weights
from attnseg.weights.rules import AUX_HEAD

_BEST = {"segmentation": "miou", "classification": "top1"}


class Trained(NamedTuple):
    """What `load_trained` finds.

    Attributes:
      model: the linen module.
      variables: ``{"params": ..., "batch_stats": ...}`` on the first device; the averaged
        parameters where the run kept an average (``train.ema``).
      info: classes, palette, label map and normalisation.
      config: of the run.
    """

    model: nn.Module
    variables: dict[str, Any]
    info: data.DatasetInfo
    config: ConfigDict


def find_step(workdir: str | Path, checkpoint: str = "best") -> int:
    """The step that "best", "latest" or a number means in a run.

    Raises:
      UserError: it is not there.
    """
    checkpoints = _open(Path(workdir))
    try:
        return checkpoints.find(str(checkpoint))
    finally:
        checkpoints.close()


def load_trained(workdir: str | Path, checkpoint: str = "best") -> Trained:
    """Model, variables, data set and configuration of a run, all from one checkpoint.

    The data themselves are not looked for: they may lie on another machine.

    Args:
      workdir: folder of a run.
      checkpoint: "best", "latest" or a step.

    Raises:
      UserError: no run or checkpoint there, or one that does not fit its configuration.
    """
    checkpoints = _open(Path(workdir))
    try:
        step = checkpoints.find(str(checkpoint))
        meta = checkpoints.meta(step)
        try:
            config = from_dict(meta["config"])
        except UserError as error:
            raise UserError(f"{checkpoints.folder / str(step)}: {error}") from error
        info = _info(meta, config)
        model = assemble.build_model(config, info.num_classes)
        shapes = jax.eval_shape(assemble.init_function(config, model), jax.random.key(0))
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        state = checkpoints.restore_weights(step, shapes, place)
    finally:
        checkpoints.close()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return Trained(model, variables, info, config)


def load_published(
    config: str | ConfigDict,
    weights: str | Path,
    changes: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Trained:
    """The same of a weight file in any known format and the configuration it belongs to.

    Args:
      config: a configuration or its file.
      weights: the file; it must fill the whole network.
      changes: dotted configuration keys that differ.
      say: takes the report of what was loaded.

    Raises:
      UserError: weights that do not fill the network, or what `load_config` raises.
    """
    changes = {**(changes or {}), "init.weights": str(weights)}
    if isinstance(config, ConfigDict):
        config = from_dict(to_dict(config), changes)
    else:
        config = load_config(str(config), changes)
    assemble.with_layout(config, say)
    model = assemble.build_model(config)
    variables, report = load_weights(model, config.init.weights)
    # Auxiliary heads only help training.
    skipped = [name for name in report.skipped if name.split("/")[1] != AUX_HEAD]
    check(
        not skipped,
        f"{weights} does not fill {', '.join(sorted(skipped)[:3])}; a network with random parts is "
        "of no use. Choose the configuration the weights were made for.",
    )
    return Trained(model, variables, assemble.dataset_info(config), config)


def _open(workdir: Path) -> Checkpoints:
    """The checkpoints of a run, with the score that its task is judged by."""
    check(
        (workdir / FOLDER).is_dir(),
        f"{workdir} holds no trained run ({FOLDER}/ is missing); give the folder of a run, or "
        "train first.",
    )
    # Which score decides is known from a checkpoint, which is the same for all of a run.
    checkpoints = Checkpoints(workdir)
    latest = checkpoints.latest_step()
    if latest is not None:
        name = checkpoints.meta(latest)["config"]["model"]["name"]
        checkpoints.metric = _BEST[zoo.find_spec(name).task]
    return checkpoints


def _info(meta: dict[str, Any], config: ConfigDict) -> data.DatasetInfo:
    """The data set as the checkpoint describes it."""
    name = config.data.name
    known = data.DATASETS.get(name)
    # Checkpoints of earlier versions do not say it; then it is the data set's, which for a
    # folder of one's own is ImageNet's.
    usual = known.normalisation if known else IMAGENET
    given = meta.get("normalisation")
    return data.DatasetInfo(
        name=name,
        task=zoo.find_spec(config.model.name).task,
        classes=tuple(meta["classes"]),
        palette=tuple(tuple(colour) for colour in meta["palette"]),
        label_map={int(raw): train_id for raw, train_id in meta["label_map"].items()},
        citation=known.citation if known else "",
        licence=known.licence if known else "",
        normalisation=Normalisation(*(tuple(v) for v in given)) if given else usual,
    )
