"""Floor 3: published weights into our variables."""

from attnseg.weights.load import load_weights

__all__ = ["load_weights"]
