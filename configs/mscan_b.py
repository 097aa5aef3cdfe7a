"""MSCAN-B, arXiv:2209.08575: the classifier, or its features with SegNeXt's decoder.

python launch/main.py --config=configs/mscan_b.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | imagenet2012 | cifar10 | cifar10_post,
see attnseg/recipe/imagenet.py
"""

from attnseg.recipe import imagenet


def get_config(data="shapes"):
    return imagenet.get_config("mscan_b", data, head="light_ham", recipe=imagenet.adamw)
