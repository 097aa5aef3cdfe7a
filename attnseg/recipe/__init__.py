"""Floor 5: the only one that sees a ConfigDict; it turns configurations into objects."""

from attnseg.recipe.load import load_config
from attnseg.recipe.run import evaluate, train

__all__ = ["evaluate", "load_config", "train"]
