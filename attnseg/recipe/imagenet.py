"""Recipes of the classifiers, and of segmenting with their features, by data set.

DATA          what
imagenet2012  the classifier, 300 epochs (BoTNet and ResNet: 100)
shapes, camvid, camvid_full  of attnseg/recipe/scratch.py, with a decoder on the features

Conv2Former and Swin (arXiv:2211.11943, section 4.1, and its training script): AdamW 1e-3 for
batches of 1024, decay 0.05 on matrices, cosine to 1e-6 after 5 epochs of warm-up, label smoothing
0.1. ResNet and BoTNet: SGD 0.1 for batches of 256, decay 1e-4, cosine, label smoothing 0.1: the
ResNet baseline's schedule, as the published sources give none for BoTNet that could be checked.
RandAugment, MixUp and random resized crops come with the classification data sets.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from attnseg.recipe import scratch

EPOCH = 1_281_167  # training images of ImageNet-1k
VECTORS = (("norm|bias|scale|/(height|width)$", 1.0, False), (".*", 1.0, True))


def _classifier(c: ConfigDict, batch: int, epochs: int, warmup_epochs: int) -> None:
    c.data.name = "imagenet2012"
    c.data.crop = (224, 224)
    c.data.batch_size = batch
    c.data.workers = 8
    c.loss.label_smoothing = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup_steps = warmup_epochs * EPOCH // batch
    c.train.steps = epochs * EPOCH // batch
    c.eval.every = c.checkpoint.every = EPOCH // batch


def adamw(c: ConfigDict) -> None:
    """Conv2Former's and Swin's."""
    _classifier(c, batch=1024, epochs=300, warmup_epochs=5)
    c.optim.lr = 1e-3
    c.optim.weight_decay = 0.05
    c.optim.rules = VECTORS
    c.schedule.warmup_ratio = 1e-3
    c.schedule.end_lr = 1e-6


def sgd(c: ConfigDict) -> None:
    """The ResNet baseline's."""
    _classifier(c, batch=1024, epochs=100, warmup_epochs=5)
    c.optim.name = "sgd"
    c.optim.lr = 0.4
    c.optim.weight_decay = 1e-4
    c.optim.rules = VECTORS


def shapes(c: ConfigDict) -> None:
    """Embedded data, with a narrow decoder."""
    scratch.shapes(c)
    c.model.head.width = 64
    c.train.steps = 1000
    c.eval.every = c.checkpoint.every = 250


SEGMENT: dict[str, scratch.Recipe] = {**scratch.DATA, "shapes": shapes}


def get_config(model: str, data: str, *, head: str, recipe: scratch.Recipe) -> ConfigDict:
    """Configuration of the classifier `model`, or of ``model+head`` where `data` has masks.

    Raises:
      UserError: there is no recipe for `data`.
    """
    name = f"{model}+{head}" if data in SEGMENT else model
    return scratch.configuration(name, data, {**SEGMENT, "imagenet2012": recipe}, model)
