"""Any model of the zoo and any pairing of backbone and decoder, from random weights."""

from __future__ import annotations

from ml_collections import ConfigDict

from attnseg.core.errors import check
from attnseg.recipe import scratch


def get_config(choice: str) -> ConfigDict:
    """Configuration for ``MODEL@DATA``, e.g. ``mscan_t+fcn@camvid``.

    Raises:
      UserError: `choice` has another form, or names an unknown model or data set.
    """
    model, at, data = choice.partition("@")
    known = ", ".join(scratch.DATA)
    check(bool(at), f'"{choice}" is not MODEL@DATA, e.g. mscan_t+fcn@shapes; DATA: {known}.')
    return scratch.configuration(model, data, scratch.DATA, model.replace("+", "-"))
