"""One function, with the settings of the platform that it is compiled for, or with none."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PLATFORMS = ("cpu", "default")  # the keys of every table of settings; default: all others


def by_platform(function: Callable[..., Any], *args: Array) -> Any:
    """``function(*args, platform=NAME)`` with the one of `PLATFORMS` that runs it."""
    ways = {name: functools.partial(function, platform=name) for name in PLATFORMS}
    return jax.lax.platform_dependent(*args, **ways)


def apart(function: Callable[..., Array], *args: Array) -> Array:
    """``function(*args)`` in a branch that is always taken, which XLA draws into nothing else.

    For a CPU, where drawn into what follows some sums are computed over and over, or by one thread.
    """
    last = args[-1]
    taken = last[(0,) * last.ndim] * 0 != 1  # of NaN and infinity as well
    like = jax.eval_shape(function, *args)
    return jax.lax.cond(taken, function, lambda *_: jnp.zeros(like.shape, like.dtype), *args)


_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """What is traced within has neither a choice by platform nor own gradients.

    For formats such as ONNX, which know no such choice and no shifted sums: a depthwise
    convolution is one grouped convolution, attention a softmax between two products.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether `plain_convolutions` is in force."""
    return _plain.get()
