"""What a model is trained for and judged by; every function returns sums, never means."""

from attnseg.objectives.boundary import boundary_counts, boundary_summary
from attnseg.objectives.enlarged import enlarged_loss
from attnseg.objectives.losses import (
    cross_entropy,
    focal,
    ohem,
    valid_mask,
)
from attnseg.objectives.metrics import (
    ABSENT_POLICY,
    Confusion,
    accuracy_counts,
    class_scores,
    confusion,
    count_pairs,
)
from attnseg.objectives.regions import dice, lovasz_softmax
from attnseg.objectives.segmentation import SegmentationLoss, rescaled
from attnseg.objectives.soft_targets import soft_cross_entropy

__all__ = [
    "ABSENT_POLICY",
    "Confusion",
    "SegmentationLoss",
    "accuracy_counts",
    "boundary_counts",
    "boundary_summary",
    "class_scores",
    "confusion",
    "count_pairs",
    "cross_entropy",
    "dice",
    "enlarged_loss",
    "focal",
    "lovasz_softmax",
    "ohem",
    "rescaled",
    "soft_cross_entropy",
    "valid_mask",
]
