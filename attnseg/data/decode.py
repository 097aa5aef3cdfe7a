"""Encoded bytes to pixels: RGB images, and annotations as the ids they were written with."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from attnseg.core.errors import UserError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types in a PNG header


def decode_image(data: bytes) -> np.ndarray:
    """Decodes an image file to u8 [h w 3] RGB.

    The orientation tag is not obeyed: annotations are drawn on the stored pixels.

    Raises:
      UserError: `data` is no image that can be read.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise UserError("the image cannot be decoded; is the file damaged?")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def decode_label(data: bytes) -> np.ndarray:
    """Decodes an annotation file to its raw ids, u8 or u16 [h w].

    Palette PNGs give palette indices, greyscale ones of 1, 2 or 4 bits the values as stored.

    Raises:
      UserError: `data` cannot be read, or has several channels.
    """
    depth, colour = (data[24], data[25]) if data.startswith(_PNG_SIGNATURE) else (8, None)
    if colour == _PALETTE:  # OpenCV would answer with the palette's colours
        return np.asarray(Image.open(io.BytesIO(data)), np.uint8)
    label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if label is None:
        raise UserError("the annotation cannot be decoded; is the file damaged?")
    if label.ndim != 2:
        raise UserError(
            f"the annotation has {label.shape[2]} channels, expected one channel of class ids; "
            "convert its colours to ids, one PNG of 8-bit grey or palette per image."
        )
    if colour == _GREY and depth < 8:  # OpenCV stretches these to 0..255
        label = label // (255 // (2**depth - 1))
    return label
