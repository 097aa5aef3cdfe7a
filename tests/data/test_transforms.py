"""Geometry against the same in separate steps of OpenCV."""

import cv2
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import EvalResize, RandomGeometry, fit_scale
from attnseg.data.transforms import IMAGE_PADDING


class Fixed:
    """A generator that answers with given numbers, so that a test knows scale, place and flip."""

    def __init__(self, scale, top, left, flip, *more):
        self._uniform, self._integers = [scale, 0.0 if flip else 1.0, *more], [top, left]

    def uniform(self, *_):
        return self._uniform.pop(0)

    def integers(self, *_):
        return self._integers.pop(0)


def example(height=60, width=81, classes=8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, classes, (height, width), dtype=np.uint8)
    # Smooth, since OpenCV before 5 warps with coordinates in steps of 1/32 pixel.
    return {"image": cv2.GaussianBlur(image, None, 2), "label": label}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.31, 2.0])
def test_one_resample_equals_resize_crop_flip(scale, flip):
    sample, (top, left) = example(), (3, 5)
    geometry = RandomGeometry(crop=(24, 32), cat_max_ratio=1)
    got = geometry(sample, Fixed(scale, top, left, flip))
    size = (round(81 * scale), round(60 * scale))
    window = (slice(top, top + 24), slice(left, left + 32))
    image = cv2.resize(sample["image"], size, interpolation=cv2.INTER_LINEAR)[window]
    label = cv2.resize(sample["label"], size, interpolation=cv2.INTER_NEAREST_EXACT)[window]
    if flip:
        image, label = image[:, ::-1], label[:, ::-1]
    assert np.abs(got["image"].astype(int) - image).max() <= 2
    np.testing.assert_array_equal(got["label"], label)


@pytest.mark.parametrize("angle", [-40.0, 7.5])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation_joins_the_one_resample(angle, flip):
    """Against resizing, cropping a wider window, flipping and turning it one after the other."""
    sample, scale, (top, left), margin = example(120, 160), 1.3, (60, 80), 12
    sample["label"] = cv2.resize(sample["label"][::8, ::8], (160, 120), interpolation=0)
    geometry = RandomGeometry(crop=(24, 32), cat_max_ratio=1, flip_vertical=0.5, rotation=45)
    draws = Fixed(scale, top, left, flip, 0.0, angle)
    got = geometry(sample, draws)
    assert draws._uniform == [] and got["label"].shape == (24, 32)

    window = (slice(top - margin, top + 24 + margin), slice(left - margin, left + 32 + margin))
    turn = cv2.getRotationMatrix2D((15.5 + margin, 11.5 + margin), -angle, 1.0)  # clockwise
    inside = (slice(margin, -margin), slice(margin, -margin))

    def in_steps(array, resize, warp):
        array = cv2.resize(array, (208, 156), interpolation=resize)[window]
        array = array[::-1, ::-1] if flip else array[::-1]
        return cv2.warpAffine(array.copy(), turn, array.shape[1::-1], flags=warp)

    image = in_steps(sample["image"], cv2.INTER_LINEAR, cv2.INTER_LINEAR)[inside]
    assert np.abs(got["image"].astype(int) - image).max() <= 4
    label = in_steps(sample["label"], cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST)
    # Away from borders between classes, where rounding twice may differ from rounding once.
    flat = (cv2.dilate(label, np.ones((5, 5))) == cv2.erode(label, np.ones((5, 5))))[inside]
    assert flat.mean() > 0.2
    np.testing.assert_array_equal(got["label"][flat], label[inside][flat])


def test_turning_over_the_edge_shows_padding():
    sample = {"image": np.full((40, 40, 3), 200, np.uint8), "label": np.ones((40, 40), np.uint8)}
    geometry = RandomGeometry(crop=(40, 40), scale=(1, 1), flip=0, cat_max_ratio=1, rotation=45)
    got = geometry(sample, Fixed(1.0, 0, 0, False, 45.0))
    outside = got["label"] == IGNORE
    # An octagon is left of the square: 2 (sqrt 2 - 1) of its area.
    assert 1 - outside.mean() == pytest.approx(2 * (2**0.5 - 1), abs=0.03)
    assert outside[0, 0] and outside[-1, -1] and not outside[20, 20]
    assert (got["image"][outside] == IMAGE_PADDING).all() and (got["image"][~outside] == 200).all()
    assert (got["label"][~outside] == 1).all()


def test_vertical_flip():
    sample = example()
    geometry = RandomGeometry(crop=(60, 81), cat_max_ratio=1, flip_vertical=0.5)
    for draw in (0.0, 0.9):
        got = geometry(sample, Fixed(1.0, 0, 0, False, draw))
        turned = sample["label"][::-1] if draw == 0 else sample["label"]
        np.testing.assert_array_equal(got["label"], turned)
    plain = RandomGeometry(crop=(24, 32))(sample, np.random.default_rng(1))
    off = RandomGeometry(crop=(24, 32), flip_vertical=0.0)(sample, np.random.default_rng(1))
    np.testing.assert_array_equal(plain["image"], off["image"])


def test_scale_in_steps_is_ccnets():
    geometry = RandomGeometry(crop=(8, 8), scale=(0.7, 2.1), scale_step=0.1)
    rng = np.random.default_rng(0)
    drawn = [geometry._scale(rng) for _ in range(600)]
    factors, counts = np.unique(np.round(drawn, 9), return_counts=True)
    np.testing.assert_allclose(factors, 0.7 + np.arange(15) / 10)
    assert counts.min() > 20
    for step in (0.4, -0.1):
        with pytest.raises(UserError, match="does not lead from 0.7 to 2.1"):
            RandomGeometry(crop=(8, 8), scale=(0.7, 2.1), scale_step=step)


def test_stretching_leaves_the_ratio():
    sample = example()
    geometry = RandomGeometry(
        crop=(32, 32), resize=(32, 32), scale=(1, 1), flip=0, cat_max_ratio=1, keep_ratio=False
    )
    got = geometry(sample, np.random.default_rng(0))
    image = cv2.resize(sample["image"], (32, 32), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(sample["label"], (32, 32), interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.abs(got["image"].astype(int) - image).max() <= 2
    np.testing.assert_array_equal(got["label"], label)
    evaluated = EvalResize((32, 32), keep_ratio=False)(sample)
    np.testing.assert_array_equal(evaluated["image"], image)


def test_small_images_are_padded_at_the_end_even_when_flipped():
    sample = {"image": np.full((10, 12, 3), 200, np.uint8), "label": np.ones((10, 12), np.uint8)}
    got = RandomGeometry(crop=(16, 20), scale=(1, 1), flip=1.0)(sample, np.random.default_rng(0))
    inside = np.zeros((16, 20), bool)
    inside[:10, :12] = True
    assert (got["image"][inside] == 200).all() and (got["image"][~inside] == IMAGE_PADDING).all()
    assert (got["label"][inside] == 1).all() and (got["label"][~inside] == IGNORE).all()


def test_without_padding_the_crop_must_fit():
    geometry = RandomGeometry(crop=(64, 64), scale=(0.5, 2.0), pad=False)
    with pytest.raises(UserError, match=r"100x100 is scaled to 50x50.*crop of 64x64.*pad"):
        geometry.check_crop((100, 100))
    geometry.check_crop((128, 130))
    with pytest.raises(UserError, match="pad"):
        geometry(example(), Fixed(0.6, 0, 0, False))


def test_crops_of_one_class_are_avoided():
    label = np.zeros((64, 64), np.uint8)
    label[:, 32:] = 1
    label[:32, :32] = IGNORE
    sample = {"image": np.zeros((64, 64, 3), np.uint8), "label": label}

    def spoilt(ratio):
        geometry = RandomGeometry(crop=(32, 32), scale=(1, 1), flip=0, cat_max_ratio=ratio)
        crops = [geometry(sample, np.random.default_rng(i))["label"] for i in range(60)]
        counts = np.array([np.bincount(c.ravel(), minlength=256)[:IGNORE] for c in crops])
        return np.mean(counts.max(1) > 0.8 * counts.sum(1))  # above 0.75: trials see a sample

    assert spoilt(1.0) > 0.4
    assert spoilt(0.75) < 0.1


def test_geometry_is_a_function_of_the_generator():
    geometry, sample = RandomGeometry(crop=(24, 32)), example()
    first, again, other = (geometry(sample, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize(
    "size, resize, scale",
    [
        ((100, 200), None, 1),
        ((100, 200), (512, 2048), 5.12),
        ((200, 100), (512, 2048), 5.12),
        ((100, 800), (512, 2048), 2.56),
    ],
)
def test_fit_scale_is_that_of_mmsegmentation(size, resize, scale):
    assert fit_scale(size, resize) == pytest.approx(scale)


def test_base_scale_comes_before_the_random_one():
    geometry = RandomGeometry(crop=(120, 162), resize=(120, 162), scale=(1, 1), flip=0)
    got = geometry(example(), np.random.default_rng(0))
    assert not (got["label"] == IGNORE).any()


def test_eval_resize_leaves_the_label():
    sample = example()
    got = EvalResize((30, 200))(sample)
    assert got["image"].shape == (30, 40, 3)
    assert got["label"] is sample["label"]
    assert EvalResize()(sample)["image"] is sample["image"]
