"""From an image of any size to a class for each of its pixels, with memory bounded by the tile."""

from attnseg.infer.prediction import ClassPrediction, Prediction
from attnseg.infer.predictor import Predictor
from attnseg.infer.slide import Block, Programs, blocks, label_map, probabilities
from attnseg.infer.tta import MODES, Views

__all__ = [
    "MODES",
    "Block",
    "ClassPrediction",
    "Prediction",
    "Predictor",
    "Programs",
    "Views",
    "blocks",
    "label_map",
    "probabilities",
]
