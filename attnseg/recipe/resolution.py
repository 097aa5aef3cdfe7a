"""SegFormer's experiment with positional encodings (arXiv:2105.15203, table 1c and section 4.2).

Two networks are trained alike, one that knows positions from the convolutions of its Mix-FFN and
one with learned tables, and tested at sizes they were not trained for. The tables have to be
interpolated there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg.core.errors import check
from attnseg.recipe.load import load_config
from attnseg.recipe.run import EVALUATIONS, evaluate, train
from attnseg.training.checkpoint import write_json
from attnseg.viz.resolution import plot_resolution
from attnseg.viz.table import columns

VARIANTS = {"mix_ffn": "Mix-FFN", "learned": "learned positions"}
CONFIG = "configs/segformer_b0.py:shapes"
# Of the default configuration, for minutes on two CPU cores.
SCALED = {
    "data.crop": (64, 64),
    "schedule.warmup_steps": 30,
    "train.steps": 600,
    "train.ema": 0.98,
    "eval.every": 600,
    "checkpoint.every": 600,
}
SIZES = (48, 64, 96, 128, 192)  # heights of the default configuration's test images


def experiment(
    folder: str | Path,
    config: str | None = None,
    *,
    sizes: Sequence[int] = (),
    split: str | None = None,
    changes: dict[str, Any] | None = None,
    say=print,
) -> dict[str, Any]:
    """Trains both networks, evaluates them at several sizes, writes a table and a picture.

    A run that is there already goes on where it stopped, or is only evaluated.

    Args:
      folder: gets the runs ``mix_ffn`` and ``learned``, ``resolution.json`` and
        ``resolution.png``.
      config: a configuration of a network with the backbone MiT; None: SegFormer-B0 on `shapes`
        at a size for a CPU.
      sizes: heights that test images are fitted into; widths follow the shape of the crop.
        Default: half, once, one and a half times, twice and three times the crop.
      split: to test on; default ``eval.split``.
      changes: dotted configuration keys of both.

    Returns:
      ``{"config", "split", "crop", "sizes", "miou": {variant: [...]}, ...}``, what the JSON holds.

    Raises:
      UserError: another backbone, or a size that is too small.
    """
    folder = Path(folder)
    scaled = {} if config else SCALED
    path = config or CONFIG
    configs = {
        variant: load_config(path, {**scaled, **(changes or {}), **_variant(path, variant)})
        for variant in VARIANTS
    }
    first = next(iter(configs.values()))
    chosen = _sizes(first, sizes or (() if config else SIZES))
    split = split or first.eval.split
    scores: dict[str, list[float]] = {}
    for variant, of_variant in configs.items():
        say(f"{VARIANTS[variant]}: training")
        train(of_variant, folder / variant, say=say)
        scores[variant] = []
        for size in chosen:
            # The last one: both have then had the same budget.
            found = evaluate(
                folder / variant,
                split=split,
                checkpoint="latest",
                changes={"eval.resize": size},
                output=folder / variant / EVALUATIONS / f"{split}-{size[0]}x{size[1]}",
                say=_silent,
            )
            scores[variant].append(found[f"{split}/miou"])
            say(f"{VARIANTS[variant]} at {size[0]}x{size[1]}: mIoU {scores[variant][-1]:.4f}")
    result = {
        "config": path,
        "steps": first.train.steps,
        "split": split,
        "crop": list(first.data.crop),
        "sizes": [list(size) for size in chosen],
        "miou": scores,
    }
    write_json(folder / "resolution.json", result)
    plot_resolution(result, VARIANTS, folder / "resolution.png")
    say(_table(result))
    say(f"written to {folder / 'resolution.json'} and {folder / 'resolution.png'}")
    return result


def _variant(path: str, variant: str) -> dict[str, str]:
    backbone = load_config(path).model.backbone
    check(
        "position" in backbone,
        f"{path} has no backbone MiT, whose model.backbone.position is compared; use a "
        "configuration of SegFormer.",
    )
    return {"model.backbone.position": variant}


def _sizes(config: ConfigDict, heights: Sequence[int]) -> list[tuple[int, int]]:
    """Test sizes (h, w) of the crop's shape."""
    h, w = config.data.crop
    heights = heights or [round(factor * h) for factor in (0.5, 1, 1.5, 2, 3)]
    for height in heights:
        check(height >= 32, f"--sizes: {height} is too small; networks take 32 pixels and more.")
    return [(height, max(32, round(height * w / h))) for height in heights]


def _silent(_: str) -> None:
    """Scores of each class at each size are more than anybody reads."""


def _table(result: dict[str, Any]) -> str:
    """A row for each variant: mIoU in percent at each size."""
    rows = [
        [VARIANTS[variant], *(f"{100 * value:.2f}" for value in values)]
        for variant, values in result["miou"].items()
    ]
    return columns(["mIoU at", *(f"{h}x{w}" for h, w in result["sizes"])], rows)
