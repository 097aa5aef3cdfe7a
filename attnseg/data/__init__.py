"""Data: what a data set is, its examples, geometry on the host, and batches."""

from attnseg.data.info import DATASETS, DatasetInfo, colour_map, map_labels
from attnseg.data.labels import LabelReport, scan_labels
from attnseg.data.loader import TrainBatches, eval_batches, steps_per_epoch, train_batches
from attnseg.data.sources import Source, open_source, prepared_folder
from attnseg.data.transforms import EvalResize, RandomGeometry, fit_scale

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "EvalResize",
    "LabelReport",
    "RandomGeometry",
    "Source",
    "TrainBatches",
    "colour_map",
    "eval_batches",
    "fit_scale",
    "map_labels",
    "open_source",
    "prepared_folder",
    "scan_labels",
    "steps_per_epoch",
    "train_batches",
]
