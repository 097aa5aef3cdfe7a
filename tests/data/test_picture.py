"""Images as people have them: orientation, depth, transparency, colour spaces."""

import io
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from attnseg.core.errors import UserError
from attnseg.data import frame_count, picture_size, read_picture
from attnseg.data.decode import decode_image

ORIENTATION = 0x0112
# What a viewer does to the stored pixels, by the value of the tag.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x[:, ::-1].transpose(1, 0, 2),
}


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("tag", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(pixels, kind, tag):
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(pixels), kind, exif=exif, **options)
    picture = read_picture(data)
    np.testing.assert_array_equal(picture, UPRIGHT[tag](pixels))
    assert picture_size(data) == picture.shape[:2]


@pytest.mark.parametrize("tag", [6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_photos_are_turned_upright(kind, tag):
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:16, :16] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    data = encode(Image.fromarray(corner), kind, exif=exif)
    expected = UPRIGHT[tag](corner)
    difference = np.abs(read_picture(data).astype(int) - expected)
    assert difference.mean() < 8
    assert picture_size(data) == expected.shape[:2]


def test_sixteen_bits_become_eight(pixels):
    deep = pixels.astype(np.uint16) * 256 + 77
    for image, expected in ((deep, pixels), (deep[..., 0], pixels[..., :1].repeat(3, axis=2))):
        stored = image[..., ::-1] if image.ndim == 3 else image
        for kind in (".png", ".tif"):
            data = cv2.imencode(kind, stored)[1].tobytes()
            difference = read_picture(data).astype(int) - expected
            assert np.abs(difference).max() <= 1  # TIFF divides by 257, PNG by 256


def test_grey_palette_and_one_bit_become_rgb(pixels):
    grey = Image.fromarray(pixels[..., 0])
    np.testing.assert_array_equal(read_picture(encode(grey, "PNG"))[..., 2], pixels[..., 0])
    palette = Image.fromarray(pixels // 64 * 64).quantize(64)
    for kind in ("PNG", "GIF"):
        expected = np.asarray(palette.convert("RGB"))
        np.testing.assert_array_equal(read_picture(encode(palette, kind)), expected)
    one_bit = grey.point(lambda value: 255 * (value > 99), "1")
    assert set(np.unique(read_picture(encode(one_bit, "PNG")))) == {0, 255}


def test_transparent_pixels_lie_on_white(pixels):
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[:, :8], alpha[:, 8:16] = 255, 51
    data = encode(Image.fromarray(np.dstack([pixels, alpha])), "PNG")
    picture = read_picture(data)
    np.testing.assert_array_equal(picture[:, :8], pixels[:, :8])
    blend = pixels[:, 8:16] * 0.2 + 255 * 0.8
    np.testing.assert_allclose(picture[:, 8:16], blend, atol=1)
    assert (picture[:, 16:] == 255).all()
    keyed = Image.fromarray(pixels[..., 0]).convert("P")
    hole = int(np.asarray(keyed)[3, 4])
    shown = read_picture(encode(keyed, "PNG", transparency=hole))
    assert (shown[3, 4] == 255).all()


def test_cmyk_of_print(pixels):
    flat = np.full((16, 16, 3), (200, 60, 120), np.uint8)
    image = Image.fromarray(flat).convert("CMYK")
    for kind, options in (("JPEG", {"quality": 100}), ("TIFF", {})):
        difference = read_picture(encode(image, kind, **options)).astype(int) - flat
        assert np.abs(difference).max() <= 3, kind


def test_opaque_images_are_those_of_training(pixels):
    for data in (
        encode(Image.fromarray(pixels), "JPEG"),
        encode(Image.fromarray(pixels), "PNG"),
        encode(Image.fromarray(np.dstack([pixels, np.full((16, 24), 255, np.uint8)])), "PNG"),
    ):
        np.testing.assert_array_equal(read_picture(data), decode_image(data))


def test_files_that_are_no_images_are_named(pixels, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*a\.png: No such file"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot read .*a\.png: No such file"):
        picture_size(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=r"empty\.png is empty"):
        read_picture(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is no image"):
        read_picture(tmp_path / "text.png")
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        whole = encode(Image.fromarray(pixels), kind)
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(UserError, match=rf"cut\.{kind}.*(cannot be decoded|no image)"):
            read_picture(cut)
    floats = cv2.imencode(".tif", pixels[..., 0].astype(np.float32))[1].tobytes()
    with pytest.raises(UserError, match="32-bit values"):
        read_picture(floats)


def test_frames_of_an_animation(pixels, tmp_path):
    frames = [Image.fromarray(np.roll(pixels, shift, axis=1)) for shift in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.png")
    assert frame_count(tmp_path / "a.gif") == 3
    assert frame_count(tmp_path / "b.png") == 1
    shutil.copy(tmp_path / "b.png", tmp_path / "c.gif")
    (tmp_path / "d.gif").write_text("no")
    assert frame_count(tmp_path / "c.gif") == frame_count(tmp_path / "d.gif") == 1
