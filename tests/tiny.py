"""A network and a recipe small enough to compile and train within a test."""

from pathlib import Path

from attnseg.recipe import load_config

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "segformer_b0.py")

CHANGES = {
    "model.backbone.widths": (8, 16, 40, 64),
    "model.backbone.depths": (1, 1, 1, 1),
    "model.head.width": 16,
    "data.batch_size": 8,
    "data.crop": (64, 64),
    "data.scan": 40,
    "eval.batch_size": 16,
    "schedule.warmup_steps": 2,
}


def config(**changes):
    """The shapes recipe, shrunk; keyword ``train_steps`` stands for ``train.steps``."""
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return load_config(CONFIG, {**CHANGES, **changes})
