"""What the demo page shows; the page itself is driven in `test_demo_browser`."""

import builtins

import cv2
import jax
import numpy as np
import pytest
import tiny
from saved_run import fill, random_variables

import attnseg
from attnseg.core.errors import UserError
from attnseg.data import CentreCrop, DatasetInfo
from attnseg.infer import Predictor
from attnseg.infer.inside import attention_maps
from attnseg.recipe import assemble, demo, demo_page
from attnseg.recipe.views import eval_views


@pytest.fixture(scope="module")
def predictor():
    config = tiny.config(eval__resize=(64, 64))
    model, info = assemble.build_model(config), assemble.dataset_info(config)
    return Predictor(model, random_variables(config), info, geometry=eval_views(config))


@pytest.fixture(scope="module")
def seen(predictor):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return demo.Seen(predictor, cv2.resize(coarse, (100, 80), interpolation=cv2.INTER_CUBIC))


def test_the_picture_follows_the_opacity(seen):
    np.testing.assert_array_equal(seen.picture(0.0), seen.prediction.image)
    np.testing.assert_array_equal(seen.picture(1.0), seen.prediction.colours())
    assert (seen.picture(0.5) != seen.picture(0.6)).any()


def test_shares_add_up_and_the_largest_comes_first(seen):
    table = seen.table()
    shares = sorted(seen.prediction.shares().items(), key=lambda item: -item[1])
    listed = [(n, s) for n, s in shares if s >= demo.SMALLEST]
    places = [table.index(f">{name}</td>") for name, _ in listed]
    assert places == sorted(places) and len(listed) >= 1
    assert table.count("<tr>") == len(listed) + 1
    assert f">{100 * listed[0][1]:.1f} %<" in table


def test_the_attention_of_a_clicked_pixel(seen, predictor):
    """The pixel of the image is found again in what the network saw: 80x100 was 51x64."""
    names = seen.look((79, 50))
    assert names and seen.pixel == (79, 50)
    tile = predictor.fitted(seen.prediction.image)
    assert tile.shape == (51, 64, 3)
    normalised = jax.device_get(predictor.normalised(tile))
    expected = attention_maps(predictor.model, predictor.variables, normalised, (50, 32))
    assert names == list(expected)
    for name in names:
        np.testing.assert_allclose(seen._maps[name], expected[name], atol=1e-6)
    picture = seen.attention(names[-1])
    assert picture.shape == (80, 100, 3) and picture.dtype == np.uint8
    assert "row 79, column 50" in seen.told()
    assert seen.prediction.class_names[seen.prediction.labels[79, 50]] in seen.told()
    seen.look((500, -3))  # a click on the very edge
    assert seen.pixel == (79, 0)


def test_who_attends(predictor):
    assert demo.attends(predictor)
    info = predictor.info
    for name, expected in (("ccnet_r50", True), ("segnext_t", False), ("deeplabv3plus_r50", False)):
        model = attnseg.create_model(name, num_classes=info.num_classes)
        assert demo.attends(Predictor(model, {}, info)) is expected, name


def test_classes_of_whole_images():
    info = DatasetInfo("kinds", "classification", ("<b>", "cat"), (), {0: 0, 1: 1}, "", "")
    model = attnseg.create_model(
        "mit_b0", 2, backbone=dict(widths=(8, 16, 40, 64), depths=(1,) * 4)
    )
    image = np.zeros((64, 64, 3), np.uint8)
    shapes = jax.eval_shape(
        lambda key: model.init(key, image[None].astype(np.float32), train=False), jax.random.key(0)
    )
    predictor = Predictor(model, fill(shapes), info, geometry=CentreCrop((64, 64)))
    seen = demo.Seen(predictor, image)
    np.testing.assert_array_equal(seen.picture(0.6), image)
    table = seen.table()
    assert "&lt;b&gt;" in table and "<b>" not in table and table.count(" %<") == 2
    assert demo.attends(predictor)


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    usual = builtins.__import__

    def without(name, *rest, **named):
        if name == "gradio":
            raise ImportError(name)
        return usual(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'attnseg\[demo\]'"):
        demo_page.load_gradio()
