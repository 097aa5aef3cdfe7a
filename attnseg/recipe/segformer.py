"""SegFormer's training recipes (arXiv:2105.15203, section 4.1), by data set.

DATA         what                                                  start
shapes       embedded data; B0 takes minutes on two CPU cores      random
camvid       half resolution; B0 takes an hour on two CPU cores    random
camvid_full  full resolution, 200 epochs, for a GPU                random
ade20k       the paper's: 160k steps of 16, crop 512 (B5: 640)     --config.init.weights=FILE
cityscapes   the paper's: 160k steps of 8, crop 1024               --config.init.weights=FILE

Evaluation is on the whole image; the paper's sliding window on Cityscapes is not here yet.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from attnseg.core.errors import lookup
from attnseg.recipe import defaults

# The decoder's batch normalisation removes the constant that this bias adds: its true gradient is
# zero, and Adam would walk it along rounding noise, differently on each number of devices.
_REMOVED = ("^backbone/stage4_norm/bias$", 0.0, False)
# The head, its normalisation included, learns ten times faster; other normalisation is not
# decayed; everything else, biases included, is. This is what the published rules come to.
RULES = (
    _REMOVED,
    ("^head/", 10.0, True),
    ("norm", 1.0, False),
    (".*", 1.0, True),
)
FROM_SCRATCH = (_REMOVED, ("norm|bias", 1.0, False), (".*", 1.0, True))


def _published(c: ConfigDict, name: str, *, crop: int, resize: tuple[int, int], batch: int) -> None:
    """AdamW 6e-5, warm-up 1500, poly 1.0, 160k steps."""
    c.data.name = name
    c.data.batch_size = batch
    c.data.crop = (crop, crop)
    c.data.resize = resize
    c.data.workers = 4
    c.optim.rules = RULES


def _ade20k(c: ConfigDict) -> None:
    crop = 640 if c.model.name == "segformer_b5" else 512
    _published(c, "ade20k", crop=crop, resize=(crop, 2048), batch=16)
    c.eval.resize = (crop, 2048)


def _cityscapes(c: ConfigDict) -> None:
    _published(c, "cityscapes", crop=1024, resize=(1024, 2048), batch=8)
    c.eval.batch_size = 1


def _from_scratch(c: ConfigDict, lr: float, steps: int, warmup: int) -> None:
    """Random initialisation wants a rate a head takes, everywhere, and clipping."""
    c.optim.lr = lr
    c.optim.weight_decay = 0.05
    c.optim.rules = FROM_SCRATCH
    c.optim.clip_norm = 1.0
    c.schedule.warmup_steps = warmup
    c.train.steps = steps


def _shapes(c: ConfigDict) -> None:
    """Embedded data, minutes on two CPU cores."""
    c.data.name = "shapes"
    c.data.batch_size = 8
    c.data.crop = (96, 96)
    c.data.scale = (0.8, 1.25)
    c.data.cat_max_ratio = 1.0
    c.data.photometric = False  # here a hue means something
    _from_scratch(c, lr=1.5e-3, steps=3000, warmup=50)
    c.model.backbone.drop_path = 0.0
    c.train.ema = 0.995
    c.eval.every = c.checkpoint.every = 750
    c.log.every = 50


def _camvid(c: ConfigDict) -> None:
    """CamVid at half resolution from random weights, within an hour on two CPU cores."""
    c.data.name = "camvid"
    c.data.batch_size = 8
    c.data.resize = c.eval.resize = (240, 320)
    c.data.crop = (192, 256)
    _from_scratch(c, lr=1e-3, steps=2400, warmup=100)
    c.model.backbone.drop_path = 0.0
    c.train.ema = 0.998
    c.eval.every = c.checkpoint.every = 600
    c.eval.batch_size = 4
    c.log.every = 50


def _camvid_full(c: ConfigDict) -> None:
    """CamVid at full resolution from random weights, 200 epochs; meant for a GPU."""
    c.data.name = "camvid"
    c.data.batch_size = 16
    c.data.crop = (360, 480)
    c.data.workers = 8
    _from_scratch(c, lr=1e-3, steps=1, warmup=500)
    c.train.epochs = 200.0
    c.train.ema = 0.999
    c.eval.every = c.checkpoint.every = 500


DATA: dict[str, Callable[[ConfigDict], None]] = {
    "shapes": _shapes,
    "camvid": _camvid,
    "camvid_full": _camvid_full,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
}


def get_config(model: str, data: str) -> ConfigDict:
    """Configuration of `model` with the recipe of `data`.

    Raises:
      UserError: there is no recipe for `data`.
    """
    config = defaults.get_config(model)
    config.name = f"{model}-{data}"
    lookup(DATA, data, "data set of this configuration")(config)
    return config
