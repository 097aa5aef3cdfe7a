"""Effective receptive fields (Luo et al. 2016, arXiv:1701.04128): which pixels a feature feels.

Luo et al. differentiate one output with respect to the image. A feature map has many channels,
and their plain sum is no measure of them: where a stage ends with LayerNorm it is constant, so its
gradient is zero. Here the field at a pixel is the size of the derivative of the whole feature
vector y at the centre, ``|dy/dx|`` (Frobenius norm over channels and colours), the root of a mean
of squares over images. It is estimated from random signs r: the mean of ``(d(r . y)/dx)^2`` over
r is the squared norm, so that one gradient for each draw is enough.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import check, check_shape
from attnseg.models.assembled import Segmenter
from attnseg.models.backbones.conv2former import Conv2Former
from attnseg.models.backbones.swin import Swin

SHARES = (0.2, 0.5, 0.9, 0.99)


class Field(NamedTuple):
    """A field and where it lies.

    Attributes:
      values: f32 [h w] over the image's pixels, not negative, largest 1.
      centre: (y, x) of the place the feature stands for, in pixels from the upper left corner.
      stride: pixels a cell stands for.
    """

    values: np.ndarray
    centre: tuple[float, float]
    stride: int


def receptive_fields(
    function: Callable[..., Sequence[jax.Array]],
    variables,
    images: np.ndarray,
    *,
    draws: int = 4,
    seed: int = 0,
    patches: bool = False,
) -> list[Field]:
    """The field of the central feature of each map that `function` returns.

    Args:
      function: ``(variables, images f32 [1 h w 3]) -> maps [1 h/s w/s c]``.
      variables: its first argument.
      images: normalised, f32 [n h w 3]; gradients differ from image to image.
      draws: random signs for each image; more make a smoother field of the same shape.
      seed: of the signs.
      patches: cells are patches that do not overlap, as Swin's, so that a feature stands for the
        middle of its patch; otherwise, after convolutions of odd size with padding, cell i of
        stride s stands for pixel i s.

    Raises:
      UserError: images of another shape, or fewer than one draw.
    """
    check_shape(images, (None, None, None, 3), "images")
    check(len(images) > 0 and draws > 0, "receptive fields need at least one image and one draw.")
    squares = _squares(function, variables, images, draws, seed)
    h, w = images.shape[1:3]
    shapes = jax.eval_shape(function, variables, jnp.asarray(images[:1], jnp.float32))
    fields = []
    for square, shape in zip(squares, shapes, strict=True):
        values = np.sqrt(square)
        top = values.max()
        rows, columns = shape.shape[1:3]
        cells = zip((rows // 2, columns // 2), (rows, columns), (h, w), strict=True)
        place = functools.partial(_place, patches=patches)
        centre = tuple(place(cell, round(side / count)) for cell, count, side in cells)
        values = (values / top if top > 0 else values).astype(np.float32)
        fields.append(Field(values, centre, round(h / rows)))
    return fields


def _place(cell: int, stride: int, patches: bool) -> float:
    """Middle of the pixel, or of the patch, that a cell stands for."""
    return cell * stride + (stride / 2 if patches else 0.5)


def _squares(function, variables, images, draws: int, seed: int) -> np.ndarray:
    """Sums of squared gradients over images, draws and colours, f64 [maps h w]."""
    total: np.ndarray | float = 0.0
    for index, image in enumerate(images):
        key = jax.random.fold_in(jax.random.key(seed), index)
        image = jnp.asarray(image, jnp.float32)[None]
        total = total + np.asarray(_of_one_image(function, draws, variables, image, key), float)
    return np.asarray(total)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _of_one_image(function, draws: int, variables, image: jax.Array, key: jax.Array):
    """Sums of squared gradients over draws and colours, f32 [maps h w]."""
    maps, pull = jax.vjp(lambda x: tuple(function(variables, x)), image)

    def square(which: jax.Array) -> jax.Array:
        """Of one draw for the map with number ``which // draws``."""
        cotangents = []
        for index, features in enumerate(maps):
            _, h, w, c = features.shape
            signs = jax.random.rademacher(jax.random.fold_in(key, which), (c,), features.dtype)
            signs = jnp.where(which // draws == index, signs, jnp.zeros_like(signs))
            place = (0, h // 2, w // 2)
            cotangents.append(jnp.zeros_like(features).at[place].set(signs))
        gradient = pull(tuple(cotangents))[0][0]
        return jnp.square(gradient.astype(jnp.float32)).sum(-1)

    # One backward program for all maps, run for one draw after another: side by side they would
    # take the memory of as many passes.
    squares = jax.lax.map(square, jnp.arange(len(maps) * draws))
    return squares.reshape(len(maps), draws, *squares.shape[1:]).sum(1)


def square_side(field: Field, share: float) -> float:
    """Side in pixels of the smallest square around the centre that holds `share` of the field.

    Parts of the square that reach over the image hold nothing; a side as long as twice the image
    therefore means that the image is too small to tell.
    """
    h, w = field.values.shape
    # Distance of each pixel's middle from the centre, in the norm whose balls are squares.
    rows = np.abs(np.arange(h) + 0.5 - field.centre[0])
    columns = np.abs(np.arange(w) + 0.5 - field.centre[1])
    distance = np.maximum(rows[:, None], columns[None, :]).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(field.values.ravel()[order], dtype=np.float64)
    if held[-1] == 0:
        return float("nan")
    index = min(int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))), len(order) - 1)
    return float(2 * distance[order[index]] + 1)


def stage_maps(model: nn.Module) -> Callable[..., tuple[jax.Array, ...]]:
    """``(variables, images) -> maps`` of every stage of a network, a segmenter's logits last."""

    def maps(variables, images):
        def inside(module, images):
            features = module.backbone(images, train=False)
            logits = module.head(features, train=False)
            logits = logits[0] if isinstance(logits, tuple) else logits
            return (*features.maps, *((logits,) if logits.ndim == 4 else ()))

        return model.apply(variables, images, method=inside)

    return maps


def has_patches(model: nn.Module) -> bool:
    """Whether the stages of a network are joined by patches and not by overlapping convolutions."""
    return isinstance(model.backbone, Swin | Conv2Former)


def field_names(fields: Sequence[Field], model: nn.Module) -> list[str]:
    """``stage1``, ``stage2``, ... and, for a segmenter, ``head``."""
    stages = len(fields) - isinstance(model, Segmenter)
    return [f"stage{i + 1}" for i in range(stages)] + ["head"] * (len(fields) - stages)
