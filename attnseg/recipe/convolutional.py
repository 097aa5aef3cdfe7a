"""Recipes of CCNet and the other convolutional decoders on dilated ResNets, by data set.

SGD 0.01 with momentum 0.9, decay 5e-4 on every parameter, poly 0.9 down to 1e-4, an auxiliary
loss of weight 0.4, losses divided by all pixels, the ignored ones too (mmsegmentation's schedules,
which retrain these papers' networks).

DATA                 what                                              start
cityscapes           80k steps of 8, crop 512x1024                     --config.init.weights=FILE
ade20k               160k steps of 16, crop 512                        the same
coco_stuff164k       80k steps of 16, crop 512                         the same
cityscapes_official  CCNet's own code: 60k steps of 8, crop 769,       the same
                     scale 0.7, 0.8 ... 2.1, rate down to 0, evaluated in
                     windows of 769 every 513 pixels; its hard
                     example mining: --config.loss.name=ohem
camvid_post          CCNet alone, network and recipe of the post:      random
                     CamVid's 31 classes at 224x224, 100 epochs
and those of attnseg/recipe/scratch.py: shapes (with a narrow decoder), camvid,
camvid_full, folder.
"""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from attnseg.core.errors import check
from attnseg.recipe import scratch

CAMVID_TRAIN = 367  # training images


def _published(c: ConfigDict, name: str, *, batch: int, steps: int) -> None:
    c.data.name = name
    c.data.batch_size = batch
    c.data.workers = 4
    c.optim.name = "sgd"
    c.optim.lr = 0.01
    c.optim.weight_decay = 5e-4
    c.optim.rules = (*scratch.frozen(c.model.name), (".*", 1.0, True))
    c.schedule.power = 0.9
    c.schedule.warmup_steps = 0
    c.schedule.end_lr = 1e-4
    c.loss.normalise = "all"
    c.train.steps = steps


def cityscapes(c: ConfigDict) -> None:
    """Cityscapes, 19 classes."""
    _published(c, "cityscapes", batch=8, steps=80_000)
    c.data.resize = (1024, 2048)
    c.data.crop = (512, 1024)
    c.eval.batch_size = 1


def cityscapes_official(c: ConfigDict) -> None:
    """As in CCNet's own code; its hard example mining is an option there, too."""
    if c.model.name.startswith("ccnet"):
        c.model.backbone.dilation = "os8_constant"
        c.model.backbone.stem_width = 128
        c.model.backbone.stem_ceil = True
        c.model.head.variant = "official"
    _published(c, "cityscapes", batch=8, steps=60_000)
    c.data.crop = (769, 769)
    c.data.scale = (0.7, 2.1)
    c.data.scale_step = 0.1
    c.data.cat_max_ratio = 1.0
    c.data.photometric = False
    c.schedule.end_lr = 0.0
    c.loss.normalise = "valid"
    c.eval.batch_size = 1
    c.eval.mode = "slide"
    c.eval.window, c.eval.stride = (769, 769), (513, 513)


def camvid_post(c: ConfigDict) -> None:
    """The post's CCNet on a plain ResNet, plain descent at a rate halved after 50 epochs.

    The post counts 33 classes; CamVid has 31 and one for what is in none of them.
    """
    check(
        c.model.name.startswith("ccnet_"),
        f"camvid_post is a recipe of ccnet_r50 and ccnet_r101; {c.model.name} has no such one.",
    )
    c.model.backbone.stem = "plain"
    c.model.backbone.dilation = c.model.head.variant = "post"
    c.model.head.dropout = 0.0
    c.model.aux = False
    c.data.name = "camvid32"
    c.data.batch_size = 8
    c.data.crop = c.data.resize = c.eval.resize = (224, 224)
    c.data.keep_ratio = False
    c.data.scale = (1.0, 1.0)
    c.data.cat_max_ratio = 1.0
    c.data.flip = c.data.flip_vertical = 0.5
    c.data.photometric = False
    c.optim.name = "sgd"
    c.optim.lr = 0.1
    c.optim.momentum = 0.0
    c.optim.weight_decay = 0.0
    c.schedule.name = "step"
    c.schedule.every = math.ceil(50 * CAMVID_TRAIN / c.data.batch_size)
    c.schedule.gamma = 0.5
    c.schedule.warmup_steps = 0
    c.train.epochs = 100.0
    c.eval.every = c.checkpoint.every = 10 * CAMVID_TRAIN // c.data.batch_size


def ade20k(c: ConfigDict) -> None:
    """ADE20K, 150 classes."""
    _published(c, "ade20k", batch=16, steps=160_000)
    c.data.crop = (512, 512)
    c.data.resize = c.eval.resize = (512, 2048)


def coco_stuff164k(c: ConfigDict) -> None:
    """COCO-Stuff, 171 classes."""
    ade20k(c)
    c.data.name = "coco_stuff164k"
    c.train.steps = 80_000


def shapes(c: ConfigDict) -> None:
    """Embedded data; a decoder of 512 channels would take hours on a CPU."""
    scratch.shapes(c)
    c.model.head.width = c.model.aux_head.width = 64
    c.train.steps = 1000
    c.eval.every = c.checkpoint.every = 250


DATA: dict[str, scratch.Recipe] = {
    **scratch.DATA,
    "shapes": shapes,
    "ade20k": ade20k,
    "coco_stuff164k": coco_stuff164k,
    "cityscapes": cityscapes,
    "cityscapes_official": cityscapes_official,
    "camvid_post": camvid_post,
}


def get_config(model: str, data: str) -> ConfigDict:
    """Configuration of `model` with the recipe of `data`.

    Raises:
      UserError: there is no recipe for `data`.
    """
    return scratch.configuration(model, data, DATA, model)
