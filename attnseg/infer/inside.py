"""Attention of a chosen pixel, and other maps that a network forms on its way.

One forward pass keeps what the layers record (`attnseg.layers.record`): queries and keys, not
matrices over all pairs of pixels. The map of a pixel is computed from them when it is asked for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import check, check_shape
from attnseg.layers.record import (
    NAME,
    RECORDS,
    CrissCrossRecord,
    DenseRecord,
    MapsRecord,
    PairRecord,
    WindowRecord,
)
from attnseg.ops.attention_maps import criss_cross_maps, softmax_map, window_map

Maps = dict[str, np.ndarray]
Pixel = tuple[int, int]


class Inside:
    """What one forward pass on one image left behind; from `look_inside`.

    Attributes:
      size: (h, w) of the image.
    """

    def __init__(self, records: dict[str, Any], size: tuple[int, int]):
        """Takes the collection `RECORDS` of ``apply(..., mutable=[RECORDS])``."""
        self._records = list(_found(jax.device_get(records)))
        self.size = size

    def attention(self, pixel: Pixel) -> Maps:
        """Where each layer with attention looks for the pixel (y, x) of the image.

        Returns:
          Name to f32 [h w] on the grid of the layer's keys, in the order of the network. A map
          sums to one, but for Swin's, where some falls on padding, and transposed BoTNets', which
          normalise over pixels that receive. Names are like ``stage1 block1 head1``; criss-cross
          attention has ``R=1``, ``R=2``, ... as it is applied again. Empty for a network without
          attention between pixels.

        Raises:
          UserError: the pixel is not in the image.
        """
        (h, w), (y, x) = self.size, pixel
        check(
            0 <= y < h and 0 <= x < w,
            f"pixel (y={y}, x={x}) is not in the image of {h}x{w}; rows are 0 to {h - 1}, "
            f"columns 0 to {w - 1}.",
        )
        found: Maps = {}
        for name, calls in self._records:
            for suffix, maps in _attention(calls, (y / h, x / w)):
                found |= _numbered(name, suffix, np.asarray(maps, np.float32))
        return found

    def activations(self) -> Maps:
        """Maps that belong to no pixel, f32 [h w], not negative.

        Bases of matrix factorisation (``hamburger basis1``: how much of a basis each pixel holds),
        responsibilities of EMANet's bases, mean magnitudes of SegNeXt's gates and Conv2Former's
        modulation.
        """
        found: Maps = {}
        for name, calls in self._records:
            for call in calls:
                if isinstance(call, MapsRecord):
                    maps = np.moveaxis(np.asarray(call.maps[0], np.float32), -1, 0)
                    found |= _numbered(name, call.kind, maps)
        return found


def look_inside(model: nn.Module, variables: dict[str, Any], image: np.ndarray) -> Inside:
    """Runs a network on one image and keeps what its layers record.

    Compiled once for each model and image size.

    Args:
      model: from `attnseg.create_model`.
      variables: of the model.
      image: normalised, f32 [h w 3].

    Raises:
      UserError: the image has another shape.
    """
    check_shape(image, (None, None, 3), "image")
    records = _recorded(model, dict(variables), jnp.asarray(image, jnp.float32)[None])
    return Inside(records, tuple(image.shape[:2]))


def attention_maps(
    model: nn.Module, variables: dict[str, Any], image: np.ndarray, pixel: Pixel
) -> Maps:
    """``look_inside(model, variables, image).attention(pixel)``."""
    return look_inside(model, variables, image).attention(pixel)


def has_attention(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a network attends from pixel to pixel; images of `size` (h, w) are only imagined."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False, mutable=True)[1],
        jax.random.key(0),
        image,
    )
    return any(not isinstance(calls[0], MapsRecord) for _, calls in _found(shapes.get(RECORDS, {})))


@functools.partial(jax.jit, static_argnums=0)
def _recorded(model: nn.Module, variables: dict[str, Any], images: jax.Array) -> dict[str, Any]:
    """The collection of records. The rest of the pass is not needed, so it is not computed."""
    return model.apply(variables, images, train=False, mutable=[RECORDS])[1].get(RECORDS, {})


def _found(records: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[Any]]]:
    """Name and records, one for each call, of every layer, in the order of the network."""
    if NAME in records:
        yield _readable(path), list(records[NAME])
    for key in sorted(records, key=_natural):
        if key != NAME:
            yield from _found(records[key], (*path, key))


def _natural(key: str) -> list[tuple[int, str]]:
    """Sorts stage10 after stage9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", key)]


_PLAIN = ("backbone", "head", "attention", "gate", "modulation", "mixer")


def _readable(path: tuple[str, ...]) -> str:
    """``stage1 block2`` of backbone/stage1_block2/attention."""
    parts = [part for part in path if part not in _PLAIN]
    return " ".join(parts).replace("_", " ")


def _attention(calls: list[Any], place: tuple[float, float]) -> Iterator[tuple[str, Any]]:
    """(what is numbered, maps [m h w]) of a layer for a place in shares of the image."""

    def at(h: int, w: int) -> Pixel:
        return int(place[0] * h), int(place[1] * w)

    if isinstance(calls[0], CrissCrossRecord):
        layers = [(call.query[0], call.key[0]) for call in calls]
        yield "R=", criss_cross_maps(layers, at(*layers[0][0].shape[:2]))
        return
    for call in calls:
        if isinstance(call, PairRecord):
            yield "head", softmax_map(call.query[0], call.key[0], at(*call.query.shape[1:3]))
        elif isinstance(call, DenseRecord):
            weights = call.weights[0]
            y, x = at(*weights.shape[1:3])
            yield "head", weights[:, y, x]
        elif isinstance(call, WindowRecord):
            cut = dict(window=call.window, shift=call.shift, grid=call.grid, size=call.size)
            yield "head", window_map(call.weights[0], at(*call.size), **cut)


def _numbered(name: str, suffix: str, maps: np.ndarray) -> Maps:
    """Maps [m h w] by name; a number only where there are several."""
    if suffix == "R=":
        return {f"criss-cross R={i}": m for i, m in enumerate(maps, start=1)}
    if len(maps) == 1:
        return {f"{name} {suffix}".strip() if suffix != "head" else name or "attention": maps[0]}
    return {f"{name} {suffix}{i}".strip(): m for i, m in enumerate(maps, start=1)}
