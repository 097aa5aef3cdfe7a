"""SegFormer-B2, arXiv:2105.15203.

python launch/main.py --config=configs/segformer_b2.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes |
coco_stuff164k, see attnseg/recipe/segformer.py
"""

from attnseg.recipe import segformer


def get_config(data="shapes"):
    return segformer.get_config("segformer_b2", data)
