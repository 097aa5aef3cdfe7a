"""BoTNet's attention over all pairs of a grid, with position logits (arXiv:2101.11605, fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from attnseg.core.errors import check, lookup
from attnseg.layers.conv import KeyLinear, Linear
from attnseg.layers.record import DenseRecord, record
from attnseg.ops.pooling import average_patches
from attnseg.ops.relative_position import (
    absolute_logits,
    query_place_logits,
    relative_logits,
    resize_absolute,
    resize_relative,
)


class Position(NamedTuple):
    """A kind of position logits and its tables."""

    logits: Callable[[Array, Array, Array], tuple[Array, Array]]
    resize: Callable[[Array, int], Array]  # a table to another side of the grid
    rows: Callable[[int], int]  # of a table for a side of l pixels
    per_head: bool = False


POSITIONS: dict[str, Position | None] = {
    "none": None,
    "relative": Position(relative_logits, resize_relative, lambda side: 2 * side - 1),
    "absolute": Position(absolute_logits, resize_absolute, lambda side: side),
    "query_place": Position(query_place_logits, resize_absolute, lambda side: side, per_head=True),
}
SCALES = ("content", "all", "none")


def _by_output(weights: Array, transpose: bool) -> Array:
    """Weights [n m h w g v], (h w) the pixel of the output that gathers and (g v) the gathered."""
    return jnp.moveaxis(weights, (4, 5), (2, 3)) if transpose else weights


class MHSA(nn.Module):
    """Multi-head attention of a grid to itself, averaged over 2x2 afterwards where it strides.

    Position tables take the size of the grid at initialisation. On another grid they are
    interpolated, so that any image size works with the same parameters.

    Implementations agree on none of the details: the paper and timm have ``position="relative"``;
    timm scales the content logits by d^-1/2, the authors' code and lucidrains all logits;
    lucidrains' absolute variant is "absolute". The code of leaderj1001 has biases, "query_place"
    and no scale, and the BoTNet post moreover `transpose`.
    """

    features: int
    heads: int = 4
    stride: int = 1
    position: str = "relative"  # kind of position logits, of `POSITIONS`
    scale: str = "content"  # logits that are scaled: content, all, none
    use_bias: bool = False
    transpose: bool = False  # pixel j gathers value i with the weight that i gives to j
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.features % self.heads == 0,
            f"attention: {self.heads} heads do not divide {self.features} channels.",
        )
        check(self.stride in (1, 2), f"attention: stride must be 1 or 2, got {self.stride}.")
        lookup(POSITIONS, self.position, "kind of position logits")
        check(
            self.scale in SCALES,
            f'attention: scale "{self.scale}" is none of {", ".join(SCALES)}.',
        )

    def _table(self, kind: Position, name: str, side: int) -> Array:
        """The position table `name` for a side of `side` pixels."""
        d = self.features // self.heads
        shape = (kind.rows(side), *((self.heads,) if kind.per_head else ()), d)
        if self.has_variable("params", name):  # of the grid it was made for
            return kind.resize(self.get_variable("params", name), side)
        return self.param(name, nn.initializers.normal(d**-0.5), shape, jnp.float32)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n h w c] -> [n ceil(h/stride) ceil(w/stride) features]; softmax is float32."""
        _, h, w, c = x.shape
        kernel_init = nn.initializers.normal(c**-0.5)
        options = dict(use_bias=self.use_bias, kernel_init=kernel_init, dtype=self.dtype)
        query = Linear(self.features, **options, name="query")(x)
        if self.use_bias:
            key = KeyLinear(self.features, dtype=self.dtype, name="key")(x)
        else:
            key = Linear(self.features, **options, name="key")(x)
        value = Linear(self.features, **options, name="value")(x)
        query, key, value = (
            rearrange(a, "n h w (m d) -> n h w m d", m=self.heads) for a in (query, key, value)
        )
        # Scaling the queries costs l x d products instead of l x l.
        scale = query.shape[-1] ** -0.5
        content_query = query if self.scale == "none" else query * scale
        logits = jnp.einsum(
            "nhwmd,ngvmd->nmhwgv", content_query, key, preferred_element_type=jnp.float32
        )
        kind = POSITIONS[self.position]
        if kind is not None:
            tables = self._table(kind, "height", h), self._table(kind, "width", w)
            position_query = content_query if self.scale == "all" else query
            rows, columns = kind.logits(position_query, *tables)
            logits = logits + rows + columns
        # Over one axis, as ONNX has it.
        flat = jax.nn.softmax(logits.reshape(*logits.shape[:4], -1), axis=-1)
        weights = flat.reshape(logits.shape).astype(value.dtype)
        record(self, lambda: DenseRecord(_by_output(weights, self.transpose)))
        out = "ngvmd" if self.transpose else "nhwmd"
        gathered = "nhwmd" if self.transpose else "ngvmd"
        x = jnp.einsum(f"nmhwgv,{gathered}->{out}", weights, value)
        x = rearrange(x, "n h w m d -> n h w (m d)")
        if self.stride == 1:
            return x
        # A last, incomplete window averages what it has; strided convolutions keep it as well.
        fill = [(0, h % 2), (0, w % 2)]
        return average_patches(x, 2, fill)
