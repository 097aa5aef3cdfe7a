"""Annotations drawn in colours: RGB pixels to class ids, exactly."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from attnseg.core.errors import UserError, check

_SHOWN = 5  # colours named in an error
_UNKNOWN = 255  # in the table of colours


def colours_to_ids(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Turns colours into the index of their colour in `palette`.

    Args:
      mask: u8 [h w 3] RGB.
      palette: RGB colours (0..255), each once, 255 at most; the position of a colour is its id.

    Returns:
      u8 [h w] ids.

    Raises:
      UserError: `mask` is not u8 RGB, `palette` repeats a colour, or the mask has colours that
        the palette lacks (each is named with its number of pixels; nothing is rounded to the
        nearest colour, as JPEG or a smooth resize would need).
    """
    mask = np.asarray(mask)
    check(
        mask.dtype == np.uint8 and mask.ndim == 3 and mask.shape[2] == 3,
        f"a coloured annotation must be 8-bit RGB, this is {mask.dtype} of shape {mask.shape}.",
    )
    pixels = _codes(mask)
    ids = _table(tuple(tuple(int(v) for v in colour) for colour in palette))[pixels]
    if ids.max(initial=0) == _UNKNOWN:
        _refuse(pixels[ids == _UNKNOWN])
    return ids


@functools.lru_cache(maxsize=2)  # 16 MiB each; a process reads one data set, or two
def _table(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """u8 [2^24]: code of a colour -> its id, or `_UNKNOWN`."""
    check(len(palette) <= _UNKNOWN, f"the palette has {len(palette)} colours, {_UNKNOWN} at most.")
    check(
        len(set(palette)) == len(palette), "the palette has a colour that stands for two classes."
    )
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    table[_codes(np.array(palette, np.int32).reshape(-1, 3))] = np.arange(len(palette))
    return table


def _codes(colours: np.ndarray) -> np.ndarray:
    """One i32 per colour of [... 3]."""
    r, g, b = (colours[..., i].astype(np.int32) for i in range(3))
    return (r << 16) | (g << 8) | b


def _refuse(codes: np.ndarray) -> None:
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = ", ".join(
        f"({v >> 16}, {v >> 8 & 255}, {v & 255}) in {n} pixels"
        for v, n in zip(values[order[:_SHOWN]], counts[order[:_SHOWN]], strict=True)
    )
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    raise UserError(
        f"the annotation has colours that are not in the colour map: {listed}{more}; correct the "
        "map, or save the masks without JPEG compression or smooth resizing."
    )
