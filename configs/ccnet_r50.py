"""CCNet on ResNet-50, arXiv:1811.11721.

python launch/main.py --config=configs/ccnet_r50.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | camvid_post | ade20k | cityscapes |
cityscapes_official | coco_stuff164k, see attnseg/recipe/convolutional.py
"""

from attnseg.recipe import convolutional


def get_config(data="shapes"):
    return convolutional.get_config("ccnet_r50", data)
