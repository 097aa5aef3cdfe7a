"""Data: what a data set is, its examples, geometry on the host, and batches."""

from attnseg.data.benchmarks import DATASETS
from attnseg.data.classification_transforms import CentreCrop, RandomResizedCrop
from attnseg.data.decoded import Decoded
from attnseg.data.failures import Replacing
from attnseg.data.folder_source import NAME as FOLDER
from attnseg.data.folder_source import Folder
from attnseg.data.info import DatasetInfo, colour_map, map_labels
from attnseg.data.labels import LabelReport, scan_labels
from attnseg.data.loader import (
    TrainBatches,
    eval_batches,
    eval_examples,
    steps_per_epoch,
    train_batches,
)
from attnseg.data.picture import frame_count, picture_size, read_picture
from attnseg.data.randaugment import RandAugment, parse_randaugment
from attnseg.data.sources import Source, open_source, prepared_folder
from attnseg.data.transforms import EvalResize, RandomGeometry, fit_scale

__all__ = [
    "DATASETS",
    "FOLDER",
    "CentreCrop",
    "DatasetInfo",
    "Decoded",
    "EvalResize",
    "Folder",
    "LabelReport",
    "RandAugment",
    "RandomGeometry",
    "RandomResizedCrop",
    "Replacing",
    "Source",
    "TrainBatches",
    "colour_map",
    "eval_batches",
    "eval_examples",
    "fit_scale",
    "frame_count",
    "map_labels",
    "open_source",
    "parse_randaugment",
    "picture_size",
    "prepared_folder",
    "read_picture",
    "scan_labels",
    "steps_per_epoch",
    "train_batches",
]
