"""From an image to a prediction at its size: equal to the network called by hand."""

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import Normalisation
from attnseg.data import CentreCrop, DatasetInfo, EvalResize
from attnseg.infer import Predictor, Views
from attnseg.infer import predictor as module

INFO = DatasetInfo(
    name="mine",
    task="segmentation",
    classes=("road", "car", "tree"),
    palette=((9, 9, 9), (200, 0, 0), (0, 200, 0)),
    label_map={7: 0, 8: 0, 300: 1, 11: 2, 0: 255},
    citation="",
    licence="",
    normalisation=Normalisation(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0)),
)
KINDS = DatasetInfo("kinds", "classification", ("a", "b", "c"), (), {0: 0, 1: 1, 2: 2}, "", "")


class Net(nn.Module):
    """A network that sees the whole image, as attention does: filling would change it."""

    classes: int = 3
    whole: bool = False

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(8, (4, 4), strides=4, padding="SAME")(images)
        x = nn.tanh(x - 0.5 * x.mean((1, 2), keepdims=True))
        x = nn.Dense(self.classes)(x)
        return {"logits": x.mean((1, 2)) if self.whole else x}


def photo(seed, size):
    """Smooth noise, so that classes come in patches."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def network():
    model = Net()
    return model, model.init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)), train=False)


def by_hand(network, image, size=None):
    """Logits f64 [h w k] at the image's size, enlarged by OpenCV."""
    model, variables = network
    seen = image if size is None else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    mean, std = (np.asarray(v) for v in INFO.normalisation)
    x = jnp.asarray((seen - mean) / std, jnp.float32)[None]
    logits = np.asarray(model.apply(variables, x, train=False)["logits"][0], np.float64)
    return cv2.resize(logits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def assert_same_labels(labels, logits):
    """Equal but for ties."""
    best = logits.max(-1)
    chosen = np.take_along_axis(logits, labels[..., None].astype(int), -1)[..., 0]
    assert (best - chosen).max() < 1e-4
    assert (labels == logits.argmax(-1)).mean() > 0.999
    assert len(np.unique(labels)) > 1


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_labels_and_probabilities_at_the_size_of_the_image(network):
    image = photo(0, (45, 70))
    prediction = Predictor(*network, INFO)(image)
    assert prediction.labels.dtype == np.uint8 and prediction.labels.shape == (45, 70)
    logits = by_hand(network, image)
    assert_same_labels(prediction.labels, logits)
    np.testing.assert_allclose(prediction.probs(), softmax(logits), atol=1e-4)
    assert prediction.class_names == INFO.classes
    np.testing.assert_array_equal(prediction.image, image)


def test_images_of_many_sizes_together_and_alone(network):
    sizes = [(40, 52), (33, 47), (40, 52), (40, 52), (28, 28), (33, 47), (40, 52), (40, 52)]
    images = [photo(seed, size) for seed, size in enumerate(sizes)]
    predictor = Predictor(*network, INFO, batch=2)
    for image, prediction in zip(images, predictor.predict(images), strict=True):
        assert_same_labels(prediction.labels, by_hand(network, image))
    # One program for a size, whatever the number of images, and one that enlarges its logits.
    assert predictor.compiled == 2 * 3


def test_the_size_the_network_sees(network):
    image = photo(3, (60, 90))
    fit = Views(fit=EvalResize((24, 40), keep_ratio=False))
    prediction = Predictor(*network, INFO, geometry=fit)(image)
    assert_same_labels(prediction.labels, by_hand(network, image, (24, 40)))


def test_windows_scales_and_mirrors(network):
    image = photo(4, (50, 64))
    views = Views(scales=(1.0, 0.5), flip=True)
    prediction = Predictor(*network, INFO, geometry=views)(image)
    total = 0
    for size in ((50, 64), (25, 32)):
        seen = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        for turn in (lambda x: x, lambda x: x[:, ::-1]):
            logits = by_hand(network, np.ascontiguousarray(turn(seen)))
            wide = cv2.resize(logits, (64, 50), interpolation=cv2.INTER_LINEAR)
            total = total + turn(wide)
    assert prediction.probs().shape == (50, 64, 3)
    np.testing.assert_allclose(prediction.probs().sum(-1), 1, atol=1e-5)
    labels = prediction.probs().argmax(-1)
    np.testing.assert_array_equal(prediction.labels, labels)
    assert (labels == total.argmax(-1)).mean() > 0.9  # enlarged in two steps, and not averaged
    slide = Views(mode="slide", window=(64, 64))  # the image is smaller: one window
    assert_same_labels(
        Predictor(*network, INFO, geometry=slide)(image).labels, by_hand(network, image)
    )


def test_large_images_go_in_blocks_with_the_same_result(network, monkeypatch):
    image = photo(5, (44, 60))
    usual = Predictor(*network, INFO)(image).labels
    monkeypatch.setattr(module, "VALUES", 44 * 60 * 3 - 1)
    predictor = Predictor(*network, INFO)
    assert (predictor(image).labels == usual).mean() > 0.999
    assert predictor._argmax.compiled == 0 and predictor._programs.add.compiled > 0


def test_probabilities_kept_from_the_start(network):
    image = photo(6, (30, 42))
    [kept] = Predictor(*network, INFO).predict([image], probs=True)
    np.testing.assert_array_equal(kept.labels, kept.probs().argmax(-1))
    assert kept.probs() is kept.probs()
    assert_same_labels(kept.labels, by_hand(network, image))


def test_programs_are_forgotten_beyond_a_number(network, monkeypatch):
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    predictor = Predictor(*network, INFO)
    for side in (16, 20, 24, 28, 32):
        image = photo(side, (side, 24))
        assert_same_labels(predictor(image).labels, by_hand(network, image))
        assert predictor.compiled <= 5


def test_pictures_and_shares(network):
    prediction = Predictor(*network, INFO)(photo(7, (40, 40)))
    labels, palette = prediction.labels, np.array(INFO.palette)
    np.testing.assert_array_equal(prediction.colours(), palette[labels])
    np.testing.assert_array_equal(prediction.overlay(0.0), prediction.image)
    np.testing.assert_array_equal(prediction.overlay(1.0), palette[labels])
    shares = prediction.shares()
    assert list(shares) == list(INFO.classes)
    for index, name in enumerate(INFO.classes):
        assert shares[name] == (labels == index).mean()
    np.testing.assert_array_equal(prediction.raw_ids(), np.array([7, 300, 11])[labels])
    drawn = (prediction.contours() != prediction.image).any(-1)
    edge = np.zeros_like(drawn)
    for y, x in np.ndindex(*labels.shape):
        edge[y, x] = len(np.unique(labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2])) > 1
    assert not drawn[~edge].any()
    np.testing.assert_array_equal(prediction.contours()[edge], palette[labels][edge])


def test_more_classes_than_a_byte_holds():
    classes = tuple(f"c{i}" for i in range(300))
    labels = np.arange(300, dtype=np.int32).reshape(15, 20)
    # Data sets end at 254 classes; a prediction need not.
    info = DatasetInfo("many", "classification", classes, (), {i: i for i in range(300)}, "", "")
    prediction = module.Prediction(np.zeros((15, 20, 3), np.uint8), labels, info, lambda: None)
    np.testing.assert_array_equal(prediction.raw_ids(), labels)
    assert prediction.raw_ids().dtype == np.uint16
    assert prediction.shares()["c299"] == 1 / 300


def test_a_class_for_the_image():
    model = Net(whole=True)
    variables = model.init(jax.random.key(2), jnp.zeros((1, 32, 32, 3)), train=False)
    crop = CentreCrop((32, 32))
    images = [photo(seed, (40 + seed, 50)) for seed in range(3)]
    predictor = Predictor(model, variables, KINDS, geometry=crop, batch=4)
    for image, prediction in zip(images, predictor.predict(images), strict=True):
        mean, std = (np.asarray(v) for v in KINDS.normalisation)
        seen = (crop({"image": image})["image"] - mean) / std
        logits = model.apply(variables, jnp.asarray(seen, jnp.float32)[None], train=False)["logits"]
        expected = softmax(np.asarray(logits[0], np.float64))
        np.testing.assert_allclose(prediction.probs(), expected, atol=1e-5)
        assert prediction.label == expected.argmax()
        assert prediction.name == KINDS.classes[prediction.label] == prediction.top(2)[0][0]
        assert [name for name, _ in prediction.top(9)] == [
            KINDS.classes[i] for i in np.argsort(-expected)
        ]


def test_what_is_no_image_is_refused_before_anything_compiles(network):
    predictor = Predictor(*network, INFO)
    image = photo(0, (20, 20))
    for wrong, told in (
        (image.astype(np.float32) / 255, "float32; give uint8"),
        (np.dstack([image, image[..., 0]]), "20x20x4; expected"),
        (image[None], "1x20x20x3; expected"),
        (image[:0], "0x20x3; expected"),
        (7, "an? int is no image"),
        ("missing.png", "cannot read missing.png"),
    ):
        with pytest.raises(UserError, match=told):
            predictor.predict([image, wrong])
    assert predictor.compiled == 0


def test_a_network_for_other_classes_is_refused(network):
    model, variables = (
        Net(5),
        Net(5).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False),
    )
    with pytest.raises(UserError, match="gives 8x8x5 logits.*mine: 3 classes"):
        Predictor(model, variables, INFO)(photo(0, (32, 32)))
    with pytest.raises(UserError, match="geometry is a Views, not a CentreCrop"):
        Predictor(*network, INFO, geometry=CentreCrop((32, 32)))
    with pytest.raises(UserError, match="batch=0 is too small"):
        Predictor(*network, INFO, batch=0)


def test_grey_arrays(network):
    grey = photo(8, (24, 24))[..., 0]
    predictor = Predictor(*network, INFO)
    same = predictor(np.dstack([grey] * 3)).labels
    np.testing.assert_array_equal(predictor(grey).labels, same)
