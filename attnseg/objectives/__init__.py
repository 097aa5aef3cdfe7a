"""What a model is trained for and judged by; every function returns sums, never means."""

from attnseg.objectives.losses import cross_entropy, valid_mask
from attnseg.objectives.metrics import ABSENT_POLICY, Confusion, accuracy_counts, confusion

__all__ = [
    "ABSENT_POLICY",
    "Confusion",
    "accuracy_counts",
    "confusion",
    "cross_entropy",
    "valid_mask",
]
