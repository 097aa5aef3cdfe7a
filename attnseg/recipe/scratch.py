"""Recipes that start at random, and data small enough for that: for any segmentation model.

DATA         what                                                  start
shapes       embedded data; minutes on two CPU cores               random
camvid       half resolution; an hour or more on two CPU cores     random
camvid_full  full resolution, 200 epochs, for a GPU                random
folder       a folder of your own (--config.data.root=DIR), 100     random
             epochs at crop 256, for a GPU
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from attnseg.core.errors import lookup
from attnseg.models import zoo
from attnseg.models.backbones.mit import MiT
from attnseg.models.backbones.mscan import MSCAN
from attnseg.models.backbones.resnet import ResNet
from attnseg.models.heads.aspp import ASPPHead
from attnseg.models.heads.emanet import EMANetHead
from attnseg.models.heads.segformer import SegFormerHead
from attnseg.models.heads.upernet import UPerNetHead
from attnseg.recipe import defaults

Recipe = Callable[[ConfigDict], None]
Rules = tuple[tuple[str, float, bool], ...]


def frozen(model: str) -> Rules:
    """Parameters whose true gradient is zero although they take part.

    The batch normalisation of a decoder's first layer removes the constant that the bias of the
    stage's last LayerNorm adds. Adam would walk it along rounding noise, differently on each
    number of devices. EMANet's first bases are never trained, as in the published code.
    """
    spec = zoo.find_spec(model)
    normed = not issubclass(spec.backbone.cls, ResNet)  # stages end with a LayerNorm
    if spec.head.cls is SegFormerHead and normed:
        # The other stages' norms also feed the next stage.
        last = "stage4_norm" if spec.backbone.cls in (MiT, MSCAN) else "stage[1234]_norm"
        return ((f"^backbone/{last}/bias$", 0.0, False),)
    if spec.head.cls is UPerNetHead and normed and spec.backbone.cls not in (MiT, MSCAN):
        return (("^backbone/stage[123]_norm/bias$", 0.0, False),)
    if spec.head.cls is ASPPHead and normed and spec.backbone.cls not in (MiT, MSCAN):
        return (("^backbone/stage1_norm/bias$", 0.0, False),)
    if spec.head.cls is EMANetHead:
        return (("^head/mid/", 0.0, False),)
    return ()


def from_scratch(c: ConfigDict, lr: float, steps: int, warmup: int) -> None:
    """AdamW at a rate a head takes, everywhere, and clipping; vectors and tables do not decay."""
    c.optim.lr = lr
    c.optim.weight_decay = 0.05
    c.optim.rules = (
        *frozen(c.model.name),
        ("norm|bias|scale|gamma|/(height|width)$|_position/", 1.0, False),
        (".*", 1.0, True),
    )
    c.optim.clip_norm = 1.0
    c.schedule.warmup_steps = warmup
    c.train.steps = steps


def _short(c: ConfigDict) -> None:
    """Too few steps for dropping residual branches to pay."""
    if "drop_path" in c.model.backbone:
        c.model.backbone.drop_path = 0.0


def shapes(c: ConfigDict) -> None:
    """Embedded data, minutes on two CPU cores."""
    c.data.name = "shapes"
    c.data.batch_size = 8
    c.data.crop = (96, 96)
    c.data.scale = (0.8, 1.25)
    c.data.cat_max_ratio = 1.0
    c.data.photometric = False  # here a hue means something
    from_scratch(c, lr=1.5e-3, steps=3000, warmup=50)
    _short(c)
    c.train.ema = 0.995
    c.eval.every = c.checkpoint.every = 750
    c.log.every = 50


def camvid(c: ConfigDict) -> None:
    """CamVid at half resolution from random weights, on two CPU cores."""
    c.data.name = "camvid"
    c.data.batch_size = 8
    c.data.resize = c.eval.resize = (240, 320)
    c.data.crop = (192, 256)
    from_scratch(c, lr=1e-3, steps=2400, warmup=100)
    _short(c)
    c.train.ema = 0.998
    c.eval.every = c.checkpoint.every = 600
    c.eval.batch_size = 4
    c.log.every = 50


def camvid_full(c: ConfigDict) -> None:
    """CamVid at full resolution from random weights, 200 epochs; meant for a GPU."""
    c.data.name = "camvid"
    c.data.batch_size = 16
    c.data.crop = (360, 480)
    c.data.workers = 8
    from_scratch(c, lr=1e-3, steps=1, warmup=500)
    c.train.epochs = 200.0
    c.train.ema = 0.999
    c.eval.every = c.checkpoint.every = 500


def folder(c: ConfigDict) -> None:
    """A folder of your own from random weights, 100 epochs; see `attnseg.data.Folder`."""
    camvid_full(c)
    c.data.name = "folder"
    c.data.crop = (256, 256)
    c.train.epochs = 100.0


DATA: dict[str, Recipe] = {
    "shapes": shapes,
    "camvid": camvid,
    "camvid_full": camvid_full,
    "folder": folder,
}


def configuration(model: str, data: str, recipes: Mapping[str, Recipe], name: str) -> ConfigDict:
    """All keys for `model`, with the recipe of `data`, for a run called NAME-DATA.

    Raises:
      UserError: there is no recipe for `data`.
    """
    recipe = lookup(recipes, data, "data set of this configuration")
    config = defaults.get_config(model)
    config.name = f"{name}-{data}"
    recipe(config)
    return config
