"""From images of any size to predictions at that size."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnseg.core.errors import UserError, check
from attnseg.core.jitted import Jitted
from attnseg.core.types import IMAGE, LOGITS
from attnseg.data import CentreCrop, DatasetInfo, read_picture
from attnseg.infer.prediction import ClassPrediction, Prediction
from attnseg.infer.slide import Programs, label_map, probabilities
from attnseg.infer.tta import Views
from attnseg.ops.resize import resize_bilinear

Image = str | os.PathLike | bytes | np.ndarray

VALUES = 2**27  # most logits at full size (f32) held at once; larger images are worked on in blocks
MOST_PROGRAMS = 64  # compiled programs kept; beyond, all are forgotten and made anew as needed


class Predictor:
    """A network with everything that an image needs on its way in and out.

    Results do not depend on the other images of a call: images are never filled up to a common
    size, which attention and pooling would notice, so each size compiles its own programs (one
    for all with ``Views(mode="slide")``). Images of one size share calls of the network, which
    changes results by rounding at most.

    Args:
      model: a linen module of `attnseg.create_model`.
      variables: ``{"params": ..., "batch_stats": ...}``.
      info: classes, palette, label map and normalisation, e.g.
        ``attnseg.data.DATASETS["cityscapes"]``.
      geometry: of segmentation, how images are looked at; default whole, at their own size. Of
        classification, the crop; default 224 pixels of the middle.
      batch: images or windows in one call of the network at most.

    Raises:
      UserError: a `geometry` of the other task.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: dict[str, Any],
        info: DatasetInfo,
        *,
        geometry: Views | CentreCrop | None = None,
        batch: int = 1,
    ):
        self.model, self.variables, self.info, self.batch = model, variables, info, batch
        usual = Views() if self.segments else CentreCrop((224, 224))
        self.geometry = usual if geometry is None else geometry
        check(
            isinstance(self.geometry, type(usual)),
            f"{info.name} is {info.task} data; its geometry is a {type(usual).__name__}, "
            f"not a {type(self.geometry).__name__}.",
        )
        check(batch >= 1, f"batch={batch} is too small; use at least 1.")
        self._forget()

    @property
    def segments(self) -> bool:
        """Whether there is a class for each pixel, rather than one for the image."""
        return self.info.task == "segmentation"

    @property
    def compiled(self) -> int:
        """Programs compiled so far and kept."""
        return self._programs.compiled + self._argmax.compiled + self._softmax.compiled

    def __call__(self, image: Image) -> Prediction | ClassPrediction:
        """The prediction for one image.

        Args:
          image: a file of any common format, its bytes, or u8 [h w 3] RGB (or [h w] grey).

        Raises:
          UserError: an image that cannot be read, or that the network cannot take.
        """
        return self.predict([image])[0]

    def predict(
        self, images: Sequence[Image], *, probs: bool = False
    ) -> list[Prediction] | list[ClassPrediction]:
        """Predictions for several images; those of one size share calls of the network.

        Args:
          images: see `__call__`.
          probs: keep the probabilities, f32 [h w k], rather than compute them when asked for.

        Raises:
          UserError: see `__call__`.
        """
        if self.compiled > MOST_PROGRAMS:
            self._forget()
        pictures = [as_picture(image) for image in images]
        inputs = [self.fitted(picture) for picture in pictures]
        groups = collections.defaultdict(list)
        for index, (picture, tile) in enumerate(zip(pictures, inputs, strict=True)):
            groups[tile.shape, picture.shape].append(index)
        found: dict[int, Prediction | ClassPrediction] = {}
        for (_, shape), members in groups.items():
            rows = self._rows(shape, probs)
            for start in range(0, len(members), max(1, rows)):
                part = members[start : start + max(1, rows)]
                if not self.segments:
                    found |= self._classify(part, pictures, inputs)
                elif rows and not probs:
                    found |= self._label(part, pictures, inputs)
                else:
                    found[part[0]] = self._in_blocks(pictures[part[0]], probs)
        return [found[index] for index in range(len(pictures))]

    def fitted(self, picture: np.ndarray) -> np.ndarray:
        """The image u8 [h w 3] at the size that the network sees, before scales and windows."""
        if self.segments:
            return self.geometry.fit.resized(picture)
        return self.geometry({IMAGE: picture})[IMAGE]

    def normalised(self, images: jax.Array) -> jax.Array:
        """[... 3] in 0..255 -> f32 [... 3] as the network takes it."""
        mean = jnp.asarray(self.info.normalisation.mean, jnp.float32)
        scale = 1.0 / jnp.asarray(self.info.normalisation.std, jnp.float32)
        return (images.astype(jnp.float32) - mean) * scale

    def _forget(self) -> None:
        self._programs = Programs(self._apply, batch=self.batch)
        self._argmax = Jitted(self._labels, static_argnums=1)
        self._softmax = Jitted(jax.nn.softmax)
        self._compiled_rows: dict[tuple[int, ...], int] = {}  # images in a call, by their shape

    def _apply(self, variables: Any, images: jax.Array) -> jax.Array:
        logits = self.model.apply(variables, self.normalised(images), train=False)[LOGITS]
        k, rank = self.info.num_classes, 4 if self.segments else 2
        check(
            logits.ndim == rank and logits.shape[-1] == k,
            f"the network gives {'x'.join(map(str, logits.shape[1:]))} logits for an image, which "
            f"does not suit {self.info.name}: {k} classes, {self.info.task}.",
        )
        return logits

    def _labels(self, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
        kind = jnp.uint8 if logits.shape[-1] <= 256 else jnp.int32
        return jnp.argmax(resize_bilinear(logits, size), axis=-1).astype(kind)

    def _rows(self, shape: tuple[int, ...], probs: bool) -> int:
        """Images of this shape that may share a call; 0 for those worked on in blocks."""
        if not self.segments:
            return self.batch
        views = self.geometry
        if views.mode != "whole" or views.count > 1 or views.bucket > 1 or probs:
            return 0
        return min(self.batch, VALUES // (shape[0] * shape[1] * self.info.num_classes))

    def _logits(self, tiles: list[np.ndarray]) -> jax.Array:
        # The last few of many are filled up to the size that was compiled for the others.
        shape = tiles[0].shape
        rows = max(self._programs.tile_count(len(tiles)), self._compiled_rows.get(shape, 0))
        self._compiled_rows[shape] = rows
        filled = tiles + [tiles[-1]] * (rows - len(tiles))
        return self._programs.logits(self.variables, np.stack(filled))

    def _label(self, part, pictures, inputs) -> dict[int, Prediction]:
        logits = self._logits([inputs[index] for index in part])
        size = pictures[part[0]].shape[:2]
        labels = jax.device_get(self._argmax(logits, size))
        return {
            index: Prediction(pictures[index], labels[row], self.info, self._later(pictures[index]))
            for row, index in enumerate(part)
        }

    def _classify(self, part, pictures, inputs) -> dict[int, ClassPrediction]:
        logits = self._logits([inputs[index] for index in part])
        probs = jax.device_get(self._softmax(logits.astype(jnp.float32)))
        return {
            index: ClassPrediction(pictures[index], self.info, probs[row])
            for row, index in enumerate(part)
        }

    def _in_blocks(self, picture: np.ndarray, probs: bool) -> Prediction:
        later = self._later(picture)
        if probs:
            values = later()
            labels = np.argmax(values, axis=-1)
            labels = labels.astype(np.uint8 if values.shape[-1] <= 256 else np.int32)
            return Prediction(picture, labels, self.info, lambda: values)
        labels = label_map(self._programs, self.variables, picture, self.geometry)
        return Prediction(picture, labels, self.info, later)

    def _later(self, picture: np.ndarray):
        return functools.partial(
            probabilities, self._programs, self.variables, picture, self.geometry
        )


def as_picture(image: Image) -> np.ndarray:
    """A file, its bytes or an array as u8 [h w 3].

    Raises:
      UserError: no such file, unreadable, or an array of another type or shape.
    """
    if not isinstance(image, np.ndarray):
        if not isinstance(image, str | bytes | os.PathLike):
            raise UserError(
                f"a {type(image).__name__} is no image; give a file, its bytes, or a NumPy array "
                "u8 [h w 3]."
            )
        return read_picture(image)
    check(
        image.dtype == np.uint8,
        f"the image is of {image.dtype}; give uint8 in 0..255, not normalised.",
    )
    grey = image.ndim == 2
    check(
        (grey or (image.ndim == 3 and image.shape[2] == 3)) and image.size > 0,
        f"the image has shape {'x'.join(map(str, image.shape))}; expected HEIGHTxWIDTHx3 (RGB).",
    )
    return np.repeat(image[..., None], 3, axis=-1) if grey else image
