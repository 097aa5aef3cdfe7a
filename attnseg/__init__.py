"""attnseg: attention-based image segmentation and classification in JAX and Flax.

The names below are loaded on first use, so that ``import attnseg`` is quick and starts no device.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "list_models": "attnseg.models.zoo",
    "create_model": "attnseg.models.zoo",
    "load_weights": "attnseg.weights.load",
    "export_torch": "attnseg.weights.export",
    "train": "attnseg.recipe.run",
    "evaluate": "attnseg.recipe.run",
    "Predictor": "attnseg.recipe.predictor",
    "UserError": "attnseg.core.errors",
}
_MODULES = ("recipe",)

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"attnseg.{name}")
    raise AttributeError(f"module 'attnseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
