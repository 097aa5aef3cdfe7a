"""Recipes of the classifiers, and of segmenting with their features, by data set.

DATA          what
imagenet2012  the classifier at 224, 300 epochs (BoTNet and ResNet: 100)
cifar10       the classifier at 32, 300 epochs with all that imagenet2012 has
cifar10_post  the classifier at 32, 50 epochs of Adam as in the post on Conv2Former
shapes, camvid, camvid_full, folder  of attnseg/recipe/scratch.py, with a decoder on the features

cifar10 is prepared by TFDS; class folders ROOT/train/CLASS and ROOT/test/CLASS do as well:
--config.data.name=folder --config.data.root=ROOT.

Conv2Former and Swin (arXiv:2211.11943, section 4.1, and its training script): AdamW 1e-3 for
batches of 1024, decay 0.05 on matrices, cosine to 1e-6 after 5 epochs of warm-up, label smoothing
0.1, RandAugment, MixUp 0.8 or CutMix 1.0, erasing 0.25. The script's colour jitter of 0.4 does
nothing there: timm leaves it out beside RandAugment. ResNet and BoTNet: SGD 0.1 for batches of
256, decay 1e-4, cosine, label smoothing 0.1, random resized crops and flips: the ResNet
baseline's schedule, as the published sources give none for BoTNet that could be checked.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from attnseg.recipe import scratch

EPOCHS = {"imagenet2012": 1_281_167, "cifar10": 50_000}  # training images
VECTORS = (("norm|bias|scale|/(height|width)$", 1.0, False), (".*", 1.0, True))


def _classifier(c: ConfigDict, name: str, *, batch: int, epochs: int, warmup: int) -> None:
    """Cosine over `epochs` after `warmup` of them, with random resized crops and flips."""
    epoch = EPOCHS[name]
    c.data.name = name
    c.data.batch_size = batch
    c.loss.label_smoothing = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup_steps = warmup * epoch // batch
    c.train.steps = epochs * epoch // batch
    c.eval.every = c.checkpoint.every = epoch // batch
    if name == "imagenet2012":
        c.data.crop = (224, 224)
        c.data.workers = 8
    else:
        c.data.crop = (32, 32)
        c.data.workers = 2
        c.eval.split = "test"  # there is no other
        c.eval.crop_pct = 1.0
        c.eval.batch_size = 256


def _mixed(c: ConfigDict) -> None:
    """The augmentation of timm's training script."""
    c.augment.randaugment = "rand-m9-mstd0.5-inc1"
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.augment.erasing = 0.25


def adamw(c: ConfigDict, name: str = "imagenet2012", batch: int = 1024) -> None:
    """Conv2Former's and Swin's; the rate follows the batch."""
    _classifier(c, name, batch=batch, epochs=300, warmup=5)
    _mixed(c)
    c.optim.lr = 1e-3 * batch / 1024
    c.optim.weight_decay = 0.05
    c.optim.rules = VECTORS
    c.schedule.warmup_ratio = 1e-3
    c.schedule.end_lr = 1e-6


def sgd(c: ConfigDict) -> None:
    """The ResNet baseline's."""
    _classifier(c, "imagenet2012", batch=1024, epochs=100, warmup=5)
    c.optim.name = "sgd"
    c.optim.lr = 0.4
    c.optim.weight_decay = 1e-4
    c.optim.rules = VECTORS


def cifar10(c: ConfigDict) -> None:
    """`adamw` on CIFAR-10, with crops that still show what the small image is of."""
    adamw(c, "cifar10", batch=256)
    c.augment.rrc_scale = (0.5, 1.0)


def cifar10_post(c: ConfigDict) -> None:
    """The post's: 50 epochs of 195 whole batches, Adam with the decay in the gradient.

    Its MixUp and erasing come without numbers; these are the defaults of the libraries it calls
    (PaddleX: Beta(1.5, 1.5); Paddle: chance 0.5), and the fill is noise, not black.
    """
    _classifier(c, "cifar10", batch=256, epochs=50, warmup=0)
    c.train.steps = 9750
    c.optim.name = "adam"
    c.optim.lr = 1e-3
    c.optim.weight_decay = 1e-5
    if "drop_path" in c.model.backbone:
        c.model.backbone.drop_path = 0.1
    c.augment.rrc_scale = (0.6, 1.0)
    c.augment.rotation = 20.0
    c.augment.color_jitter = 0.2
    c.augment.mixup = 1.5
    c.augment.erasing = 0.5
    c.augment.interpolation = "bilinear"


def shapes(c: ConfigDict) -> None:
    """Embedded data, with a narrow decoder."""
    scratch.shapes(c)
    c.model.head.width = 64
    c.train.steps = 1000
    c.eval.every = c.checkpoint.every = 250


SEGMENT: dict[str, scratch.Recipe] = {**scratch.DATA, "shapes": shapes}
CLASSIFY: dict[str, scratch.Recipe] = {"cifar10": cifar10, "cifar10_post": cifar10_post}


def get_config(model: str, data: str, *, head: str, recipe: scratch.Recipe) -> ConfigDict:
    """Configuration of the classifier `model`, or of ``model+head`` where `data` has masks.

    Raises:
      UserError: there is no recipe for `data`.
    """
    name = f"{model}+{head}" if data in SEGMENT else model
    recipes = {**SEGMENT, **CLASSIFY, "imagenet2012": recipe}
    return scratch.configuration(name, data, recipes, model)
