"""How images are looked at in evaluation and prediction, from the configuration."""

from __future__ import annotations

from ml_collections import ConfigDict

from attnseg.data import EvalResize
from attnseg.infer import Views


def eval_views(config: ConfigDict) -> Views:
    """The views that the section ``eval`` asks for.

    Raises:
      UserError: values that mean nothing.
    """
    c = config.eval
    return Views(
        mode=c.mode,
        window=c.window or config.data.crop,
        stride=c.stride,
        scales=c.scales,
        flip=c.flip,
        fit=EvalResize(c.resize, config.data.keep_ratio, c.multiple),
        bucket=c.bucket,
    )


def is_plain(views: Views) -> bool:
    """Whether images are looked at once, whole and as they are: then they go in batches."""
    return views.mode == "whole" and views.bucket == 1 and views.scales == (1.0,) and not views.flip
