"""Images by strangers: whatever their bytes, pixels or one sentence, and no gigabytes."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attnseg import UserError
from attnseg.data import decode
from attnseg.data.decode import decode_image, decode_label, decode_mask
from attnseg.data.picture import read_picture

KINDS = ("PNG", "BMP", "TIFF", "JPEG", "WEBP")
LACKS = {"JPEG": ("P", "1", "RGBA", "LA"), "BMP": ("LA",), "WEBP": ("P", "1", "LA")}
steady = settings(derandomize=True, deadline=None, max_examples=150)


def encoded(kind, size=(9, 14), mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, content):
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png_bomb(width, height, colour=2):
    """Rows of zeros as they compress, cut off after a megabyte of them."""
    head = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    )
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    return head + palette + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")


def bmp_bomb(width, height):
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def jpeg_bomb(width, height):
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_bomb(width, height):
    data = bytearray(encoded("TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, place)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, place + 2, 4, 1, (width, height)[tag - 256])
    return bytes(data)


BOMBS = {
    "png": png_bomb(50_000, 50_000),
    "png of just too many": png_bomb(2**14, 2**13 + 1),
    "palette png": png_bomb(12_000, 12_000, 3),
    "enormous palette png": png_bomb(2**31 - 1, 2**31 - 1, 3),
    "bmp": bmp_bomb(40_000, 40_000),
    "jpeg": jpeg_bomb(65_500, 65_500),
    "tiff": tiff_bomb(60_000, 60_000),
    "tiff of more than there is": tiff_bomb(2**32 - 1, 2**32 - 1),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("read", [decode_image, decode_label, decode_mask, read_picture])
def test_decompression_bombs_are_refused_before_memory_is_taken(name, read, monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr(decode, "_palette_indices", never)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"^the (image|annotation) claims .* cut it into tiles"):
            read(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_large_images_that_are_true_are_read(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 9 * 14)
    assert decode_image(encoded("PNG")).shape == (9, 14, 3)
    with pytest.raises(UserError, match="claims 15x9 pixels, more than the 126 pixels"):
        decode_image(encoded("PNG", (9, 15)))


def test_text_that_unpacks_to_gigabytes():
    good = encoded("PNG")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)))
    try:
        assert decode_image(good[:33] + bomb + good[33:]).shape == (9, 14, 3)
    except UserError as error:
        assert "cannot be decoded" in str(error)


def test_orientation_tags_and_broken_ones_change_no_pixel():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode_image(encoded("JPEG"))
    np.testing.assert_array_equal(decode_image(encoded("JPEG", exif=exif)), upright)
    whole = exif.tobytes()
    rng = np.random.default_rng(1)
    for damaged in (whole[:10], whole[:-1], whole[:6] + rng.bytes(40), whole + b"\xff" * 99):
        np.testing.assert_array_equal(decode_image(encoded("JPEG", exif=damaged)), upright)


def pixels_or_sentence(data):
    """Whatever the bytes: an array as promised, or a `UserError` of one line."""
    for read in (decode_image, decode_mask, decode_label, read_picture):
        try:
            pixels = read(data)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert pixels.ndim == 2 or pixels.shape[2] == 3
            if read in (decode_image, read_picture):
                assert pixels.dtype == np.uint8 and pixels.ndim == 3


@steady
@given(st.binary(max_size=300))
def test_any_bytes(data):
    pixels_or_sentence(data)


@steady
@given(
    st.sampled_from(KINDS),
    st.sampled_from(("RGB", "L", "P", "1", "RGBA", "LA")),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
)
def test_any_damage(kind, mode, changes, cut):
    if mode in LACKS.get(kind, ()):
        mode = "L"
    data = bytearray(encoded(kind, mode=mode))
    for place, value in changes:
        data[place % len(data)] = value
    pixels_or_sentence(bytes(data[: len(data) - cut]))


@steady
@given(st.sampled_from(KINDS), st.tuples(st.integers(1, 70), st.integers(1, 70)))
def test_any_size(kind, size):
    assert decode_image(encoded(kind, size)).shape == (*size, 3)
    grey = encoded(kind, size, "L")
    assert decode_mask(grey).shape[:2] == size


@steady
@given(
    st.sampled_from((1, 2, 4, 8)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
)
def test_ids_of_any_depth_come_back(depth, size, seed):
    ids = np.random.default_rng(seed).integers(0, 2**depth, size, np.uint8)
    for mode in ("L", "P"):
        picture = Image.fromarray(ids).convert(mode) if mode == "L" else Image.fromarray(ids, "P")
        if mode == "P":
            picture.putpalette([channel for i in range(256) for channel in (i, 255 - i, 7)])
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **({"bits": depth} if mode == "P" else {}))
        np.testing.assert_array_equal(decode_label(buffer.getvalue()), ids)
