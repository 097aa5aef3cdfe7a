"""Swin-T, arXiv:2103.14030: the classifier, or its features with UPerNet.

python launch/main.py --config=configs/swin_t.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | imagenet2012 | cifar10 | cifar10_post,
see attnseg/recipe/imagenet.py
"""

from attnseg.recipe import imagenet


def get_config(data="shapes"):
    return imagenet.get_config("swin_t", data, head="upernet", recipe=imagenet.adamw)
