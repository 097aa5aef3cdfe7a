"""SegFormer's and SegNeXt's training recipes, and that of UPerNet on Swin, by data set.

The papers train alike (arXiv:2105.15203, section 4.1; arXiv:2209.08575, section 4; mmsegmentation
for Swin): AdamW 6e-5, decay 0.01, warm-up over 1500 steps, poly 1.0, the loss divided by all
pixels, the ignored ones too. Only Swin has an auxiliary loss, and a head that learns no faster
than the rest.

DATA         what                                                  start
ade20k       160k steps of 16, crop 512 (SegFormer-B5: 640)        --config.init.weights=FILE
cityscapes   160k steps of 8, crop 1024                            --config.init.weights=FILE
coco_stuff164k  80k steps of 16, crop 512                          --config.init.weights=FILE
and those of attnseg/recipe/scratch.py: shapes, camvid, camvid_full, folder.

Evaluation is as in the papers: on Cityscapes in windows of 1024 every 768 pixels, on ADE20K on
the whole image, its sides stretched to multiples of 32 for SegFormer and SegNeXt.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from attnseg.recipe import scratch

# The head, its normalisation included, learns ten times faster; other normalisation is not
# decayed; everything else, biases included, is. This is what the published rules come to.
RULES = (("^head/", 10.0, True), ("norm", 1.0, False), (".*", 1.0, True))
# SegNeXt's stem normalises under names that those rules do not find.
STEM = (("^backbone/stage1_embed/", 1.0, True),)
SWIN = (("norm|relative_bias", 1.0, False), (".*", 1.0, True))


def _published(c: ConfigDict, name: str, *, crop: int, resize: tuple[int, int], batch: int) -> None:
    c.data.name = name
    c.data.batch_size = batch
    c.data.crop = (crop, crop)
    c.data.resize = resize
    c.data.workers = 4
    c.loss.normalise = "all"
    family = c.model.name.partition("_")[0]
    rules = {"segnext": STEM + RULES, "upernet": SWIN}.get(family, RULES)
    c.optim.rules = scratch.frozen(c.model.name) + rules


def ade20k(c: ConfigDict) -> None:
    """ADE20K, 150 classes."""
    crop = 640 if c.model.name == "segformer_b5" else 512
    _published(c, "ade20k", crop=crop, resize=(crop, 2048), batch=16)
    c.eval.resize = (crop, 2048)
    if not c.model.name.startswith("upernet"):
        c.eval.multiple = 32


def cityscapes(c: ConfigDict) -> None:
    """Cityscapes, 19 classes."""
    _published(c, "cityscapes", crop=1024, resize=(1024, 2048), batch=8)
    c.eval.batch_size = 1
    c.eval.mode = "slide"
    c.eval.window, c.eval.stride = (1024, 1024), (768, 768)


def coco_stuff164k(c: ConfigDict) -> None:
    """COCO-Stuff, 171 classes."""
    _published(c, "coco_stuff164k", crop=512, resize=(512, 2048), batch=16)
    c.eval.resize = (512, 2048)
    c.train.steps = 80_000


DATA: dict[str, scratch.Recipe] = {
    **scratch.DATA,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco_stuff164k": coco_stuff164k,
}


def get_config(model: str, data: str) -> ConfigDict:
    """Configuration of a SegFormer, SegNeXt or UPerNet on Swin with the recipe of `data`.

    Raises:
      UserError: there is no recipe for `data`.
    """
    return scratch.configuration(model, data, DATA, model)
