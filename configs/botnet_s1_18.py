"""BoTNet-S1-18, arXiv:2101.11605: the classifier, or its features with SegFormer's decoder.

python launch/main.py --config=configs/botnet_s1_18.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | imagenet2012 | cifar10 | cifar10_post,
see attnseg/recipe/imagenet.py
"""

from attnseg.recipe import imagenet


def get_config(data="shapes"):
    return imagenet.get_config("botnet_s1_18", data, head="segformer", recipe=imagenet.sgd)
