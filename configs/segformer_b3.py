"""SegFormer-B3, arXiv:2105.15203.

python launch/main.py --config=configs/segformer_b3.py[:DATA]

DATA   what                                                     weights
shapes       embedded data, minutes on two CPU cores (default)  random
camvid       half resolution, --config.data.root=FOLDER         random
camvid_full  full resolution, 200 epochs, for a GPU             random
ade20k       the paper's recipe, 160k steps of 16               --config.init.weights=FILE
cityscapes   the paper's recipe, 160k steps of 8                --config.init.weights=FILE
"""

from attnseg.recipe import segformer


def get_config(data="shapes"):
    return segformer.get_config("segformer_b3", data)
