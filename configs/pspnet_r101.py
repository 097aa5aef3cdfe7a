"""PSPNet on ResNet-101, arXiv:1612.01105.

python launch/main.py --config=configs/pspnet_r101.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes | cityscapes_official |
coco_stuff164k, see attnseg/recipe/convolutional.py
"""

from attnseg.recipe import convolutional


def get_config(data="shapes"):
    return convolutional.get_config("pspnet_r101", data)
