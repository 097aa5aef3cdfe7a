"""DeepLabV3+ on ResNet-101, arXiv:1802.02611.

python launch/main.py --config=configs/deeplabv3plus_r101.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes | cityscapes_official |
coco_stuff164k, see attnseg/recipe/convolutional.py
"""

from attnseg.recipe import convolutional


def get_config(data="shapes"):
    return convolutional.get_config("deeplabv3plus_r101", data)
