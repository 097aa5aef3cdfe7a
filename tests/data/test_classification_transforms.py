"""Crops, turns and RandAugment against OpenCV and Pillow in steps; order with workers."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.data import CentreCrop, RandAugment, RandomResizedCrop, eval_batches, train_batches
from attnseg.data import parse_randaugment as parse
from attnseg.data import randaugment as ra
from attnseg.data.classification_transforms import _turned, random_window

BILINEAR = Image.Resampling.BILINEAR


def smooth_image(height=40, width=48, seed=0, sigma=2):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma).astype(np.float64)
    return np.clip((blurred - 128) * 1.5 * sigma + 110, 5, 240).astype(np.uint8)


IMAGE = smooth_image()


def example(image=IMAGE, label=3):
    size = np.array(image.shape[:2], np.int32)
    return {"image": image, "label": np.int32(label), "id": "x", "size": size}


class Fixed:
    """Answers draws with given numbers."""

    def __init__(self, *numbers):
        self._numbers = list(numbers)

    def random(self, size=None):
        if size is None:
            return self._numbers.pop(0)
        return np.array([self._numbers.pop(0) for _ in range(size)])

    def uniform(self, low, high):
        return low + (high - low) * self._numbers.pop(0)


# Area 0.36 at ratio 1.2 of 40x48 is a window of 24x29 at (40 - 24 + 1) / 2 and (48 - 29 + 1) / 4.
DRAWS = (0.36, np.log(1.2 * 4 / 3) / np.log(16 / 9), 0.5, 0.25)
TOP, LEFT, HEIGHT, WIDTH = 8, 5, 24, 29


def test_the_window_is_torchvisions():
    window = random_window((40, 48), (0.0, 1.0), (3 / 4, 4 / 3), Fixed(*DRAWS))
    assert window == (TOP, LEFT, HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    windows = np.array(
        [random_window((300, 400), (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)]
    )
    top, left, height, width = windows.T
    assert (top >= 0).all() and (top + height <= 300).all()
    assert (left >= 0).all() and (left + width <= 400).all()
    share, ratio = height * width / 120_000, width / height
    assert 0.075 < share.min() < 0.1 and share.max() > 0.97
    assert 0.74 < ratio.min() < 0.77 and 1.31 < ratio.max() < 1.35
    # Nothing of ratio 1 and full area fits; the central square remains.
    assert random_window((10, 30), (1.0, 1.0), (1.0, 1.0), rng) == (0, 10, 10, 10)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("kernel", "flag"), [("bilinear", cv2.INTER_LINEAR),
                                              ("bicubic", cv2.INTER_CUBIC)])  # fmt: skip
def test_crop_and_flip_equal_opencv_in_steps(mirrored, kernel, flag):
    transform = RandomResizedCrop((56, 60), scale=(0.0, 1.0), interpolation=kernel)
    out = transform(example(), Fixed(*DRAWS, 0.1 if mirrored else 0.9))
    part = IMAGE[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    expected = cv2.resize(part, (60, 56), interpolation=flag)
    expected = expected[:, ::-1] if mirrored else expected
    np.testing.assert_array_equal(out["image"], expected)
    assert out["label"] == 3 and out["label"].dtype == np.int32 and set(out) == {"image", "label"}


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    transform = RandomResizedCrop((16, 16), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    out = transform(example(stripes), np.random.default_rng(0))["image"]
    assert np.ptp(out) <= 1 and abs(out.mean() - 100) < 1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 17.0, -20.0])
def test_turn_equals_crop_resize_turn_and_flip_in_steps(angle, mirrored):
    """In the part of the output that shows the window; elsewhere steps would see nothing."""
    image = smooth_image(120, 120, sigma=5)
    window, crop = (20, 24, 80, 72), (40, 36)
    out = _turned(image, window, crop, angle, mirrored, "bilinear")
    part = Image.fromarray(cv2.resize(image[20:100, 24:96], crop[::-1]))
    expected = np.asarray(part.rotate(angle, BILINEAR))
    expected = expected[:, ::-1] if mirrored else expected
    assert out.shape == expected.shape
    difference = np.abs(out.astype(int) - expected)[10:-10, 10:-10]
    assert difference.mean() < 1.5 and difference.max() < 8
    # The corners show the image around the window, and the mean colour outside the image.
    assert (out != np.rint(IMAGENET.mean)).any(-1).all()
    outside = _turned(image, (0, 0, 120, 120), crop, 20.0, mirrored, "bilinear")
    np.testing.assert_array_equal(outside[0, 0], np.rint(IMAGENET.mean))


def test_centre_crop_is_resize_then_crop():
    image = smooth_image(128, 192)
    out = CentreCrop((56, 56), share=0.875, interpolation="bicubic")(example(image))
    resized = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BOX))
    expected = resized[4:60, 20:76]
    assert out["image"].shape == (56, 56, 3) and out["id"] == "x"
    assert np.abs(out["image"].astype(int) - expected).max() <= 2
    small = smooth_image(32, 32)
    np.testing.assert_array_equal(CentreCrop((32, 32), 1.0)(example(small))["image"], small)


PILLOW = Image.fromarray(IMAGE)
LEVEL = 9.3


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        (ra.color, ImageEnhance.Color),
        (ra.contrast, ImageEnhance.Contrast),
        (ra.brightness, ImageEnhance.Brightness),
        (ra.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancing_is_pillows(operation, enhance, sign):
    expected = enhance(PILLOW).enhance(max(0.1, 1 + sign * LEVEL / 10 * 0.9))
    np.testing.assert_array_equal(operation(IMAGE, LEVEL, sign), expected)


@pytest.mark.parametrize("level", [0.0, 3.0, 9.0])
def test_point_operations_are_pillows(level):
    flat = np.full((5, 6, 3), 77, np.uint8)
    for image in (IMAGE, flat, IMAGE[:2, :2]):
        pillow = Image.fromarray(image)
        for operation, expected in (
            (ra.auto_contrast, ImageOps.autocontrast(pillow)),
            (ra.equalize, ImageOps.equalize(pillow)),
            (ra.invert, ImageOps.invert(pillow)),
            (ra.posterize, ImageOps.posterize(pillow, 4 - int(level / 10 * 4))),
            (ra.solarize, ImageOps.solarize(pillow, 256 - min(256, int(level / 10 * 256)))),
        ):
            np.testing.assert_array_equal(operation(image, level, 1), expected)
    brighter = np.minimum(255, IMAGE.astype(int) + min(128, int(level / 10 * 110)))
    np.testing.assert_array_equal(
        ra.solarize_add(IMAGE, level, 1), np.where(IMAGE < 128, brighter, IMAGE)
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_warps_are_pillows(sign):
    strength = sign * LEVEL / 10

    def affine(*matrix):
        return PILLOW.transform(PILLOW.size, Image.Transform.AFFINE, matrix, BILINEAR)

    for operation, expected in (
        (ra.rotate, PILLOW.rotate(30 * strength, BILINEAR)),
        (ra.shear_x, affine(1, 0.3 * strength, 0, 0, 1, 0)),
        (ra.shear_y, affine(1, 0, 0, 0.3 * strength, 1, 0)),
        (ra.translate_x, affine(1, 0, 0.45 * 48 * strength, 0, 1, 0)),
        (ra.translate_y, affine(1, 0, 0, 0, 1, 0.45 * 40 * strength)),
    ):
        out, expected = operation(IMAGE, LEVEL, sign), np.asarray(expected)
        # Away from where the image ends: there OpenCV goes over into the fill, Pillow jumps.
        inside = cv2.erode((expected != 0).all(-1).astype(np.uint8), np.ones((5, 5))) > 0
        assert inside.mean() > 0.3, operation.__name__
        difference = np.abs(out.astype(int) - expected)
        assert difference[inside].max() <= 4, operation.__name__
        outside = cv2.erode((expected == 0).all(-1).astype(np.uint8), np.ones((5, 5))) > 0
        assert outside.any() and (out[outside] == ra.FILL).all(), operation.__name__


def test_randaugment_draws_two_of_fifteen_half_of_the_time():
    assert len(set(ra.OPERATIONS)) == 15
    augment, rng = RandAugment(9.0, 0.5), np.random.default_rng(0)
    outs = [augment(IMAGE, rng) for _ in range(600)]
    assert all(o.dtype == np.uint8 and o.shape == IMAGE.shape for o in outs)
    same = np.mean([np.array_equal(o, IMAGE) for o in outs])
    assert 0.2 < same < 0.33  # neither operation, and those that change nothing here
    first, second = (augment(IMAGE, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_randaugment_is_written_as_in_timm():
    assert parse("rand-m9-mstd0.5-inc1") == RandAugment(9.0, 0.5, 2)
    assert parse("rand-m7-n3-inc1") == RandAugment(7.0, 0.0, 3)
    for text in ("rand-m9-mstd0.5", "augmix", "rand-m11-inc1", "rand-m9-mstd0.5-inc1-w0"):
        with pytest.raises(UserError, match="is not understood; write rand-mM-mstdS-inc1"):
            parse(text)


class Source:
    """Images of different sizes."""

    cache_dir = None

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return example(smooth_image(30 + index, 34, seed=index), index % 3)

    def __repr__(self):
        return "Source()"


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_resume():
    transform = RandomResizedCrop((16, 16), rotation=10.0, randaugment=RandAugment())

    def take(count, **settings):
        batches = train_batches(Source(), geometry=transform, batch_size=4, seed=3, **settings)
        try:
            return [next(batches) for _ in range(count)]
        finally:
            batches.close()

    expected = take(5)
    assert expected[0]["image"].shape == (4, 16, 16, 3)
    assert expected[0]["label"].shape == (4,) and expected[0]["label"].dtype == np.int32
    # 11 examples in batches of 4: step 4 lies in the middle of the second epoch.
    alone, two, four = take(2, start_step=3), take(5, workers=2), take(1, start_step=4, workers=4)
    for other, start in ((alone, 3), (two, 0), (four, 4)):
        for a, b in zip(other, expected[start:], strict=True):
            for key in ("image", "label"):
                np.testing.assert_array_equal(a[key], b[key])


def test_evaluation_makes_batches_of_one_size():
    batches = list(eval_batches(Source(), transform=CentreCrop((16, 16)), batch_size=4))
    assert [b["image"].shape for b in batches] == [(4, 16, 16, 3)] * 3
    assert np.concatenate([b["label"][b["mask"] > 0] for b in batches]).tolist() == [
        i % 3 for i in range(11)
    ]
