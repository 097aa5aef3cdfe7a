"""Encoded bytes to pixels: RGB images, and annotations as the ids they were written with."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from attnseg.core.errors import UserError, check

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types in a PNG header
_DAMAGED = "the {} cannot be decoded; is the file damaged?"
MAX_PIXELS = 2**27  # of an image; 400 MB as RGB
_TOO_LARGE = (
    "{} claims {}, more than the {:,} pixels that are read; cut it into tiles, or remove it if "
    "it comes from a stranger."
)


def decode_image(data: bytes) -> np.ndarray:
    """Decodes an image file to u8 [h w 3] RGB.

    The orientation tag is not obeyed: annotations are drawn on the stored pixels.

    Raises:
      UserError: `data` is no image that can be read, or claims more than `MAX_PIXELS`.
    """
    check(check_size(data, "the image"), _DAMAGED.format("image"))
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _decode(data, flags)
    if pixels is None:
        raise UserError(_DAMAGED.format("image"))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def decode_label(data: bytes) -> np.ndarray:
    """Decodes an annotation file to its raw ids, u8 or u16 [h w].

    Palette PNGs give palette indices, greyscale ones of 1, 2 or 4 bits the values as stored.

    Raises:
      UserError: `data` cannot be read, claims more than `MAX_PIXELS` or has several channels.
    """
    label = decode_mask(data)
    if label.ndim != 2:
        raise UserError(
            f"the annotation has {label.shape[2]} channels, expected one channel of class ids; "
            "convert its colours to ids, one PNG of 8-bit grey or palette per image."
        )
    return label


def decode_mask(data: bytes) -> np.ndarray:
    """As `decode_label`, but annotations in colour give their RGB colours [h w 3], without alpha.

    Raises:
      UserError: `data` cannot be read, or claims more than `MAX_PIXELS`.
    """
    check(check_size(data, "the annotation"), _DAMAGED.format("annotation"))
    depth, colour = (data[24], data[25]) if _has_header(data) else (8, None)
    if colour == _PALETTE:  # OpenCV would answer with the palette's colours
        return _palette_indices(data)
    label = _decode(data, cv2.IMREAD_UNCHANGED)
    if label is None:
        raise UserError(_DAMAGED.format("annotation"))
    if label.ndim == 3:
        return np.ascontiguousarray(label[..., 2::-1])
    if colour == _GREY and depth < 8:  # OpenCV stretches these to 0..255
        label = label // (255 // (2**depth - 1))
    return label


def check_size(data: bytes, what: str) -> bool:
    """Refuses what would not fit into memory by the size in its header, before it is decoded.

    A few kilobytes of any format can stand for gigabytes of pixels.

    Args:
      data: an image file.
      what: begins the message, as "the image".

    Returns:
      Whether the size could be read; False for damaged headers and formats that Pillow lacks.

    Raises:
      UserError: the image claims more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header only
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise UserError(_TOO_LARGE.format(what, "to be enormous", MAX_PIXELS)) from error
    except Exception:  # readers of damaged headers raise anything
        return False
    if width * height > MAX_PIXELS:
        raise UserError(_TOO_LARGE.format(what, f"{width}x{height} pixels", MAX_PIXELS))
    return True


def _has_header(data: bytes) -> bool:
    return data.startswith(_PNG_SIGNATURE) and len(data) > 25


def _palette_indices(data: bytes) -> np.ndarray:
    try:
        return np.asarray(Image.open(io.BytesIO(data)), np.uint8)
    except Exception as error:  # PIL raises anything for damaged files, SyntaxError among it
        raise UserError(_DAMAGED.format("annotation")) from error


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    """The pixels, channels as OpenCV orders them, or None."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # e.g. a header that claims more pixels than OpenCV takes
        return None
