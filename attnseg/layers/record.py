"""What layers leave behind for those who look inside.

A layer calls `record` where its weights are at hand. Unless the caller asks for the collection
(``model.apply(..., mutable=[RECORDS])``) nothing is computed, kept or returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

# flax leaves this collection, and no other, out of what `init` returns.
RECORDS = "intermediates"
NAME = "record"


def record(module: nn.Module, make: Callable[[], Any]) -> None:
    """Keeps ``make()`` among the records of `module`, after those of its earlier calls."""
    if module.is_mutable_collection(RECORDS):
        module.sow(RECORDS, NAME, make())


@struct.dataclass
class PairRecord:
    """Softmax attention of pixels to keys: query [n h w m d], scaled, and key [n g v m d]."""

    query: Array
    key: Array


@struct.dataclass
class CrissCrossRecord:
    """Criss-cross attention: query and key [n h w d]."""

    query: Array
    key: Array


@struct.dataclass
class DenseRecord:
    """Attention weights that the layer forms anyway: f32 [n m h w g v], query first."""

    weights: Array


@struct.dataclass
class WindowRecord:
    """Attention in windows: weights [n windows m l l], and how the map was cut.

    Attributes as in `attnseg.ops.attention_maps.window_map`.
    """

    weights: Array
    window: tuple[int, int] = struct.field(pytree_node=False)
    shift: tuple[int, int] = struct.field(pytree_node=False)
    grid: tuple[int, int] = struct.field(pytree_node=False)
    size: tuple[int, int] = struct.field(pytree_node=False)


@struct.dataclass
class MapsRecord:
    """Maps that belong to no pixel: f32 [n h w m], not negative.

    kind: what each of the m maps is, e.g. "basis".
    """

    maps: Array
    kind: str = struct.field(pytree_node=False)


def strength(x: Array, kind: str) -> MapsRecord:
    """The mean magnitude over the channels of [n h w c], as one map."""
    return MapsRecord(jnp.abs(x.astype(jnp.float32)).mean(-1, keepdims=True), kind)
