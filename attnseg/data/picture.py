"""Image files as people have them to 8-bit RGB: turned upright, on white, from any bit depth."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from attnseg.core.errors import UserError, check
from attnseg.data.decode import check_size

_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_WIDE = ("F", "I")  # Pillow's modes of 32 bits a pixel
_ORIENTATION = 0x0112  # EXIF tag
_ON_ITS_SIDE = (5, 6, 7, 8)
# What Pillow raises for files that are damaged or claim absurd sizes.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_picture(source: str | os.PathLike | bytes) -> np.ndarray:
    """Reads an image as a viewer shows it.

    Unlike `decode_image`, which gives training the pixels as stored and annotated, this obeys the
    EXIF orientation and lays transparent pixels over white. 16-bit channels are brought to 8 bits,
    as in training; grey, palette and CMYK become RGB; of an animation the first frame counts.

    Args:
      source: a file, or the bytes of one.

    Returns:
      u8 [h w 3] RGB.

    Raises:
      UserError: there is no such file, it is no image that can be read whole, or it claims more
        pixels than `attnseg.data.decode.MAX_PIXELS`.
    """
    name, data = _load(source)
    check_size(data, name)
    head = _head(data)
    mode = head.mode if head is not None else None
    check(
        mode not in _WIDE,
        f"{name} holds 32-bit values, whose range nobody knows; save it with 8 or 16 bits.",
    )
    if head is None or not (_transparent(head) or head.format == "AVIF"):
        flags = cv2.IMREAD_COLOR  # obeys the orientation, except in AVIF files
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:  # e.g. a header that claims more pixels than OpenCV takes
            pixels = None
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if head is None:
        raise UserError(f"{name} is no image that can be read; is it damaged?")
    try:
        return _with_pillow(head)
    except _BROKEN as error:
        raise UserError(f"{name} cannot be decoded; is the file damaged or cut off?") from error


def picture_size(source: str | os.PathLike | bytes) -> tuple[int, int] | None:
    """(h, w) of what `read_picture` would give, from the file's first bytes.

    None where only decoding can tell. That a size is known does not mean that the file is whole.

    Raises:
      UserError: there is no such file, or it is empty.
    """
    name, handle = source, source
    if isinstance(source, bytes):
        name, handle = "the image", io.BytesIO(source)
    try:
        with Image.open(handle) as head:
            width, height = head.size
            # Pillow would decode all of a PNG to find a tag behind the pixels; TIFF it has turned.
            tagged = "exif" in head.info if head.format == "PNG" else head.format != "TIFF"
            turned = tagged and head.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read {name}: {error.strerror}.") from error
    except _BROKEN:
        return None
    return (width, height) if turned else (height, width)


def frame_count(path: str | os.PathLike) -> int:
    """Frames of an image file; 1 where that cannot be told."""
    try:
        with Image.open(path) as head:
            return getattr(head, "n_frames", 1)
    except _BROKEN:
        return 1


def _load(source) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        check(len(source) > 0, "the image is empty (0 bytes).")
        return "the image", source
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}.") from error
    check(len(data) > 0, f"{source} is empty (0 bytes).")
    return str(source), data


def _head(data: bytes) -> Image.Image | None:
    """The image with nothing decoded yet; None for formats that Pillow does not know."""
    try:
        return Image.open(io.BytesIO(data))
    except _BROKEN:
        return None


def _transparent(head: Image.Image) -> bool:
    keyed = "transparency" in head.info and head.mode in ("1", "L", "P", "RGB")
    return head.mode in _ALPHA or keyed


def _with_pillow(head: Image.Image) -> np.ndarray:
    head.load()
    upright = ImageOps.exif_transpose(head)
    if _transparent(head):
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return np.array(upright.convert("RGB"))
