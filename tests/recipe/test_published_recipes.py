"""Recipes against the figures they were published with, and the keys they reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import attnseg
from attnseg.core.tree import count
from attnseg.objectives import SegmentationLoss
from attnseg.recipe import assemble, load_config
from attnseg.recipe.views import eval_views
from attnseg.training.schedule import make_schedule


def config_of(path, **changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return load_config(f"{tiny.ROOT}/configs/{path}", changes)


def test_the_posts_ccnet_is_its_network_and_recipe():
    config = config_of("ccnet_r50.py:camvid_post")
    model = assemble.build_model(config)
    variables = jax.eval_shape(assemble.init_function(config, model), jax.random.key(0))
    # The post's 33 classes and unused classifier (FACTS, section 5), less two classes.
    assert count(variables["params"]) == 49_497_290 - 2_049_000 - 2 * 513
    image = jnp.zeros((2, 224, 224, 3))
    logits = jax.eval_shape(lambda v: model.apply(v, image, train=False), variables)["logits"]
    assert logits.shape == (2, 224, 224, 31)

    schedule = make_schedule(
        config.schedule.name,
        lr=config.optim.lr,
        steps=4588,
        every=config.schedule.every,
        gamma=config.schedule.gamma,
        warmup_steps=config.schedule.warmup_steps,
        end_lr=config.schedule.end_lr,
    )
    assert float(schedule(0)) == float(schedule(2293)) == np.float32(0.1)  # 2293.75 in 50 epochs
    assert float(schedule(2294)) == float(schedule(4587)) == np.float32(0.05)
    assert (config.optim.momentum, config.optim.weight_decay, config.data.batch_size) == (0, 0, 8)

    rng = np.random.default_rng(0)
    raw = {
        "image": rng.integers(0, 256, (72, 96, 3), dtype=np.uint8),
        "label": rng.integers(0, 31, (72, 96), dtype=np.uint8),
    }
    shown = assemble.geometry(config)(raw, rng)
    # Nothing is cut off or filled up.
    assert shown["image"].shape == (224, 224, 3) and (shown["label"] != 255).all()
    evaluated = assemble.eval_transform(config)(raw)
    assert evaluated["image"].shape == (224, 224, 3) and evaluated["label"].shape == (72, 96)
    with pytest.raises(attnseg.UserError, match="camvid_post is a recipe of ccnet_r50"):
        config_of("danet_r50.py:camvid_post")


def test_ccnets_own_scale_and_hard_examples():
    config = config_of("ccnet_r50.py:cityscapes_official", loss__name="ohem")
    geometry = assemble.geometry(config)
    assert (geometry.scale, geometry.scale_step) == ((0.7, 2.1), 0.1)
    assert assemble.build_task(config).objective == SegmentationLoss("ohem", ohem_keep=100_000)


@pytest.mark.parametrize("path", ["segformer_b0.py:ade20k", "ccnet_r50.py:cityscapes"])
def test_mmsegmentation_divides_by_all_pixels(path):
    assert assemble.build_task(config_of(path)).objective.normalise == "all"


def test_every_key_of_the_loss_and_the_geometry_arrives():
    config = tiny.config(
        loss__name="focal",
        loss__focal_gamma=1.5,
        loss__dice_weight=0.5,
        loss__lovasz_weight=0.25,
        loss__class_weights=(1.0,) * 8,
        loss__normalise="all",
        data__flip_vertical=0.25,
        augment__rotation=10.0,
    )
    assert assemble.build_task(config).objective == SegmentationLoss(
        "focal", (1.0,) * 8, 0.0, "all", focal_gamma=1.5, dice_weight=0.5, lovasz_weight=0.25
    )
    geometry = assemble.geometry(config)
    assert (geometry.flip_vertical, geometry.rotation) == (0.25, 10.0)
    with pytest.raises(attnseg.UserError, match="weighs all classes alike"):
        assemble.build_task(tiny.config(loss__name="dice", loss__class_weights=(1.0,) * 8))


def test_evaluation_looks_at_images_as_published():
    for path, window, stride in (
        ("segformer_b0.py:cityscapes", 1024, 768),
        ("segnext_t.py:cityscapes", 1024, 768),
        ("ccnet_r101.py:cityscapes_official", 769, 513),
    ):
        views = eval_views(config_of(path))
        assert (views.mode, views.window, views.strides) == (
            "slide",
            (window, window),
            (stride, stride),
        )
        assert views.fit.fitted((1024, 2048)) == (1024, 2048) and views.count == 1
    for path, size in (("segformer_b0.py:ade20k", 704), ("upernet_swin_t.py:ade20k", 683)):
        views = eval_views(config_of(path))
        assert views.mode == "whole" and views.fit.fitted((384, 512)) == (512, size)
        assert views.fit.fitted((384, 512), 0.5)[0] == 256
