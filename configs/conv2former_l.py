"""Conv2Former-L, arXiv:2211.11943: the classifier, or its features with UPerNet.

python launch/main.py --config=configs/conv2former_l.py[:DATA]

DATA: shapes (default) | camvid | camvid_full | folder | imagenet2012 | cifar10 | cifar10_post,
see attnseg/recipe/imagenet.py
"""

from attnseg.recipe import imagenet


def get_config(data="shapes"):
    return imagenet.get_config("conv2former_l", data, head="upernet", recipe=imagenet.adamw)
