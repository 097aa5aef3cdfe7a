"""The classification task against slow numpy, and a whole run on images of two colours."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.recipe import assemble, evaluate, inspect, load_config, train
from attnseg.tasks.classification import Classification

RNG = np.random.default_rng(0)
NAMES = tuple("abcdefg")
TASK = Classification(NAMES, IMAGENET, label_smoothing=0.1)


def batch_of(labels, mask=None):
    n = len(labels)
    images = RNG.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    mask = np.ones(n, np.float32) if mask is None else np.float32(mask)
    return {"image": images, "label": np.int32(labels), "mask": mask}


def test_scores_are_those_of_numpy_over_batches_with_padding():
    batches, logits = [], []
    for mask in ([1] * 6, [1, 1, 1, 0, 0, 0]):
        batches.append(batch_of(RNG.integers(0, 6, 6), mask))  # "g" never occurs
        logits.append(RNG.normal(size=(6, 7)).astype(np.float32))
    counts = [
        jax.device_get(TASK.counts({"logits": jnp.asarray(x), "aux": ()}, b))
        for x, b in zip(logits, batches, strict=True)
    ]
    scores = TASK.summarise(counts)
    real = np.concatenate([b["mask"] > 0 for b in batches])
    labels = np.concatenate([b["label"] for b in batches])[real]
    values = np.float64(np.concatenate(logits)[real])
    ranks = np.argsort(-values, axis=1)
    assert scores["top1"] == pytest.approx(np.mean(ranks[:, 0] == labels))
    assert scores["top5"] == pytest.approx(np.mean((ranks[:, :5] == labels[:, None]).any(1)))
    recalls = {}
    for index, name in enumerate(NAMES):
        if (labels == index).any():
            recalls[name] = np.mean(ranks[labels == index, 0] == index)
            assert scores[f"acc/{name}"] == pytest.approx(recalls[name])
    assert "acc/g" not in scores and "miou" not in scores and "iou/a" not in scores
    assert scores["macc"] == pytest.approx(np.mean(list(recalls.values())))
    log_shares = values - np.log(np.exp(values).sum(1, keepdims=True))
    targets = np.full_like(values, 0.1 / 7) + 0.9 * np.eye(7)[labels]
    assert scores["loss"] == pytest.approx(-np.mean((targets * log_shares).sum(1)), rel=1e-5)


def test_many_classes_have_no_confusion_matrix():
    """And label 255 is a class like any other, where there are so many."""
    task = Classification(tuple(map(str, range(300))), IMAGENET)
    batch = batch_of([255, 0], [1, 0])
    logits = jnp.zeros((2, 300)).at[0, 255].set(5.0)
    counts = jax.device_get(task.counts({"logits": logits, "aux": ()}, batch))
    assert "confusion" not in counts
    scores = task.summarise([counts])
    assert scores["top1"] == 1.0 and set(scores) == {"loss", "top1", "top5"}
    with pytest.raises(UserError, match="no image was counted"):
        task.summarise([jax.tree_util.tree_map(np.zeros_like, counts)])


def test_unmixed_loss_is_that_of_labels():
    batch = batch_of([1, 2, 6])
    logits = {"logits": RNG.normal(size=(3, 7)).astype(np.float32), "aux": ()}
    same = TASK.augment(batch, jax.random.key(0))
    assert "label_probs" not in same
    np.testing.assert_array_equal(same["image"], batch["image"])
    counted = TASK.counts(logits, batch)
    total, weight = TASK.loss(logits, batch)
    assert float(total) == pytest.approx(float(counted["loss_sum"])) and weight == 3


def test_augmentation_is_keyed_and_mixes_images_and_targets_alike():
    task = Classification(
        NAMES, IMAGENET, label_smoothing=0.1, jitter=0.4, erasing=0.5, mixup=0.8, cutmix=1.0
    )
    batch = batch_of(np.arange(6))
    augment = jax.jit(task.augment)
    first, again = augment(batch, jax.random.key(0)), augment(batch, jax.random.key(0))
    other = augment(batch, jax.random.key(1))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (np.asarray(first["image"]) != np.asarray(other["image"])).any()
    np.testing.assert_allclose(first["label_probs"].sum(1), 1, rtol=1e-5)
    logits = RNG.normal(size=(6, 7))
    total, weight = task.loss({"logits": jnp.asarray(logits), "aux": ()}, first)
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(np.asarray(first["label_probs"]) * log_shares).sum()
    assert float(total) == pytest.approx(expected, rel=1e-5) and float(weight) == 6


def test_mixing_alone_keeps_the_share_of_image_and_target_equal():
    """Row i is black or white by its class, so that the mean of the image shows the share."""
    task = Classification(("black", "white"), IMAGENET, mixup=0.8, cutmix=1.0)
    labels = np.array([0, 0, 1, 1], np.int32)
    images = np.broadcast_to(np.uint8(255 * labels)[:, None, None, None], (4, 8, 8, 3))
    batch = {"image": images, "label": labels, "mask": np.ones(4, np.float32)}
    augment = jax.jit(task.augment)
    shares = set()
    for seed in range(8):
        out = augment(batch, jax.random.key(seed))
        white = np.asarray(out["image"]).mean((1, 2, 3)) / 255
        np.testing.assert_allclose(out["label_probs"][:, 1], white, atol=1e-5)
        shares.add(round(float(white[0]), 4))
    assert len(shares) > 4


@pytest.fixture
def colours(tmp_path):
    """Class folders of reddish and bluish images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 9)):
        for channel, name in ((2, "red"), (0, "blue")):
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 90, (20, 24, 3), dtype=np.uint8)
                image[..., channel] += 150
                cv2.imwrite(str(folder / f"{i}.png"), image)
    return str(tmp_path / "colours")


def test_a_run_learns_to_tell_colours(colours, tmp_path):
    changes = {
        "data.name": "folder",
        "data.root": colours,
        "data.prepared": str(tmp_path / "prepared"),
        "model.backbone.depths": (1, 1, 1, 1),
        "model.backbone.width": 16,
        "data.batch_size": 16,
        "data.workers": 0,
        "augment.mixup": 0.0,
        "augment.color_jitter": 0.0,
        "optim.lr": 1e-3,
        "train.steps": 24,
        "eval.every": 12,
        "eval.batch_size": 8,
        "log.every": 12,
    }
    config = load_config(f"{tiny.ROOT}/configs/resnet18.py:cifar10_post", changes)
    lines = []
    scores = train(config, tmp_path / "run", say=lines.append)
    assert scores["test/top1"] > 0.9 and scores["test/top5"] == 1.0
    assert {"test/acc/red", "test/acc/blue", "test/macc"} <= set(scores)
    assert any("test top1" in line for line in lines)
    assert "top-1" in lines[-2] and "IoU" not in lines[-2]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metrics"]["test/top1"] == scores["test/top1"]
    assert "images of the split" in results["counting"]
    figures = {p.name for p in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"curves.png", "class_accuracy.png", "confusion.png", "memory.png"}
    best = evaluate(tmp_path / "run", say=lambda _: None)
    assert best["test/top1"] >= scores["test/top1"]
    assert "blue" in inspect.batch(config, str(tmp_path / "batch.png"))


def test_the_task_follows_the_data_set():
    config = load_config(f"{tiny.ROOT}/configs/conv2former_n_cifar.py:cifar10")
    task = assemble.build_task(config)
    assert task.classes[3] == "cat" and (task.mixup, task.cutmix, task.erasing) == (0.8, 1.0, 0.25)
    assert assemble.geometry(config).randaugment.level == 9.0
    post = load_config(f"{tiny.ROOT}/configs/conv2former_n_cifar.py:cifar10_post")
    assert post.optim.name == "adam" and post.train.steps == 9750
    imagenet = load_config(f"{tiny.ROOT}/configs/swin_t.py:imagenet2012")
    assert imagenet.augment.rrc_scale == (0.08, 1.0) and imagenet.optim.lr == 1e-3
    with pytest.raises(UserError, match="is not understood; write rand-mM-mstdS-inc1"):
        load_config(f"{tiny.ROOT}/configs/swin_t.py:imagenet2012", {"augment.randaugment": "rand"})
