"""DANet on ResNet-50, arXiv:1809.02983.

python launch/main.py --config=configs/danet_r50.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes | cityscapes_official |
coco_stuff164k, see attnseg/recipe/convolutional.py
"""

from attnseg.recipe import convolutional


def get_config(data="shapes"):
    return convolutional.get_config("danet_r50", data)
