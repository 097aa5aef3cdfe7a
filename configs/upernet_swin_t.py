"""UPerNet on Swin-T, arXiv:1807.10221 and arXiv:2103.14030.

python launch/main.py --config=configs/upernet_swin_t.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | ade20k | cityscapes |
coco_stuff164k, see attnseg/recipe/segformer.py
"""

from attnseg.recipe import segformer


def get_config(data="shapes"):
    return segformer.get_config("upernet_swin_t", data)
