"""One function, with the settings of the platform that it is compiled for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

PLATFORMS = ("cpu", "default")  # the keys of every table of settings; default: all others


def by_platform(function: Callable[..., Any], *args: Array) -> Any:
    """``function(*args, platform=NAME)`` with the one of `PLATFORMS` that runs it."""
    ways = {name: functools.partial(function, platform=name) for name in PLATFORMS}
    return jax.lax.platform_dependent(*args, **ways)
