"""SegNeXt-L, arXiv:2209.08575.

python launch/main.py --config=configs/segnext_l.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes |
coco_stuff164k, see attnseg/recipe/segformer.py
"""

from attnseg.recipe import segformer


def get_config(data="shapes"):
    return segformer.get_config("segnext_l", data)
