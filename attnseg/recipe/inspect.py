"""What a configuration comes to, as text and pictures, without training."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core import tree
from attnseg.core.types import IMAGE, LABEL
from attnseg.models.macs import count_macs
from attnseg.recipe import assemble
from attnseg.recipe.load import leaves
from attnseg.training.optim import Rule
from attnseg.viz import overlay, save_png


def configuration(config: ConfigDict) -> str:
    """Every key and its value, one a line."""
    values = leaves(config)
    width = max(map(len, values))
    return "\n".join(f"{key:{width}}  {value}" for key, value in values.items())


def parameters(config: ConfigDict) -> str:
    """Every parameter with shape, learning-rate factor and decay, then counts and MACs by part."""
    model = assemble.build_model(config)
    init = assemble.init_function(config, model)
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    rules = [Rule(*rule) for rule in config.optim.rules]
    matched = tree.flat(
        tree.match_rules([(rule.pattern, rule) for rule in rules], params, "optim.rules")
    )
    leaves = tree.named_leaves(params)
    width = max(len(name) for name, _ in leaves)
    lines = []
    for name, leaf in leaves:
        rule = matched[name]
        decay = config.optim.weight_decay if rule.weight_decay else 0.0
        rate, shape = config.optim.lr * rule.lr_scale, "x".join(map(str, leaf.shape))
        lines.append(f"{name:{width}}  {shape:>16}  lr {rate:.1e}  decay {decay:g}")
    lines += [f"{part}: {tree.count(branch):,}" for part, branch in params.items()]
    lines.append(f"total: {tree.count(params):,}")
    lines.append(_macs(model, config.data.crop))
    return "\n".join(lines)


def _macs(model: nn.Module, size: tuple[int, int]) -> str:
    """Multiply-accumulates for one image, in a line."""
    parts = {part: macs / 1e9 for part, macs in count_macs(model, size).items()}
    training = parts.pop("aux_head", 0.0)
    text = ", ".join(f"{part} {macs:.4g} G" for part, macs in parts.items())
    text += f"; aux_head {training:.4g} G more in training" if training else ""
    return (
        f"MACs at {size[0]}x{size[1]}: {sum(parts.values()):.4g} G ({text}), as published; "
        "what runs is less where algebra allows"
    )


def labels(config: ConfigDict, split: str) -> str:
    """The label map and the pixels of each class in a split."""
    info = assemble.dataset_info(config)
    source = assemble.open_split(config, split)
    report = data.scan_labels(source, info, None, assemble.max_skipped(config) or 0)
    return f"{info.describe_labels()}\n{split}, {report.describe(len(source))}"


def batch(config: ConfigDict, path: str, most: int = 8) -> str:
    """Draws the first training batch with its labels to `path`; returns what it holds."""
    source = assemble.open_split(config, "train")
    stream = assemble.train_batches(config, source, 0)
    try:
        first = next(stream)
    finally:
        stream.close()
    info = assemble.dataset_info(config)
    columns, names = list(first[IMAGE][:most]), ""
    if info.task == "classification":
        names = "\n" + ", ".join(info.classes[label] for label in first[LABEL][:most])
    else:
        columns = [
            np.concatenate([image, overlay(image, label, info.palette)], axis=0)
            for image, label in zip(columns, first[LABEL][:most], strict=True)
        ]
    save_png(path, np.concatenate(columns, axis=1))
    shapes = "\n".join(f"{key:6} {v.dtype} {v.shape}" for key, v in first.items())
    return f"{shapes}{names}\nwritten to {path}"
