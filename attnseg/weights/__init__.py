"""Floor 3: published weights into our variables, and back."""

from attnseg.weights.export import export_torch
from attnseg.weights.load import implied_fields, load_weights

__all__ = ["export_torch", "implied_fields", "load_weights"]
