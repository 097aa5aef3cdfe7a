"""What flows between the parts of attnseg, written once.

Axis letters used in comments, einsum and einops: ``n`` batch, ``h w`` grid, ``c`` channels,
``k`` classes, ``m`` heads, ``d`` head width, ``l`` tokens (only inside attention functions).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

IGNORE = 255  # label value that no loss and no metric counts

# Keys of an example and of a batch.
IMAGE = "image"  # u8 [h w 3] RGB; in a batch [n h w 3]
LABEL = "label"  # train ids or IGNORE: u8/i32 [h w] or i32 []; in a batch i32 [n h w] or [n]
LABEL_PROBS = "label_probs"  # f32 [n k], targets of a mixed batch, device only
MASK = "mask"  # f32 [n], 0 marks a row that only pads the batch
ID = "id"  # str, host only
SIGNALS = "signals"  # i32 [n], number of the signal its process got, 0 for none; see training
SIZE = "size"  # i32 [2], height and width of the original image, host only

# Keys of a model's output.
LOGITS = "logits"  # f32 [n h/s w/s k] or [n k]
BRANCHES = "branches"  # tuple of logits of a decoder's own branches, as important to the loss
AUX = "aux"  # tuple of auxiliary logits, coarse heads used only by the loss

Example = dict[str, Any]
Batch = dict[str, Any]
Outputs = dict[str, Any]
Counts = dict[str, Any]
Params = dict[str, Any]
Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Features:
    """Feature maps of a backbone, fine to coarse.

    maps: arrays [n h/s w/s c], one per stage; strides and widths: their ``s`` and ``c``.
    """

    maps: tuple[jax.Array, ...]
    strides: tuple[int, ...] = flax.struct.field(pytree_node=False)
    widths: tuple[int, ...] = flax.struct.field(pytree_node=False)


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation in units of 0..255, RGB."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
