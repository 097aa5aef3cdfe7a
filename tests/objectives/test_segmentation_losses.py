"""OHEM, focal, Dice, Lovasz and their combination against slow float64 versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.objectives import (
    SegmentationLoss,
    cross_entropy,
    dice,
    focal,
    lovasz_softmax,
    ohem,
    regions,
    soft_cross_entropy,
)
from attnseg.tasks.segmentation import Segmentation

K, N, H, W = 5, 3, 9, 7


@pytest.fixture(scope="module")
def batch():
    """Class 4 has no label, class 3 only where the batch is padded."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(N, H, W, K))).astype(np.float32)
    labels = rng.choice([0, 1, 2, 255], (N, H, W)).astype(np.int32)
    labels[2, :4] = 3
    return logits, labels, np.array([1, 1, 0], np.float32)


def shares_of(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def counted(labels, mask):
    return [i for i in np.ndindex(labels.shape) if labels[i] != 255 and mask[i[0]] > 0]


def slow_pixels(logits, labels, mask, factor, class_weights=None, keep=lambda p: True):
    """Sum over the counted pixels of -factor(p) log p, and of the weights."""
    shares, total, weight = shares_of(logits), 0.0, 0.0
    for index in counted(labels, mask):
        p = shares[(*index, labels[index])]
        scale = 1.0 if class_weights is None else class_weights[labels[index]]
        if keep(p):
            total -= scale * factor(p) * np.log(p)
            weight += scale
    return total, weight


def slow_dice(logits, labels, mask):
    pixels, shares, values = counted(labels, mask), shares_of(logits), []
    for c in range(K):
        common = sum(shares[i][c] for i in pixels if labels[i] == c)
        both = sum(shares[i][c] for i in pixels) + sum(labels[i] == c for i in pixels)
        if any(labels[i] == c for i in pixels):
            values.append(1 - (2 * common + 1) / (both + 1))
    return np.mean(values) * len(pixels), len(pixels)


def slow_lovasz(logits, labels, mask):
    """The extension by its definition: errors by falling size times what they add to 1 - IoU."""
    pixels, shares, values = counted(labels, mask), shares_of(logits), []
    for c in range(K):
        is_label = np.array([labels[i] == c for i in pixels])
        if not is_label.any():
            continue
        errors = np.abs(is_label - np.array([shares[i][c] for i in pixels]))
        value, before = 0.0, 0.0
        wrong = np.zeros(len(pixels), bool)
        for place in np.argsort(-errors, kind="stable"):
            wrong[place] = True
            kept = np.sum(is_label & ~wrong)
            jaccard = 1 - kept / np.sum(is_label | wrong)
            value, before = value + errors[place] * (jaccard - before), jaccard
        values.append(value)
    return np.mean(values) * len(pixels), len(pixels)


def floats(pair):
    assert pair[0].dtype == pair[1].dtype == jnp.float32
    return [float(x) for x in pair]


@pytest.mark.parametrize("class_weights", [None, (0.5, 1.0, 2.0, 0.0, 3.5)])
def test_focal_equals_float64(batch, class_weights):
    for gamma in (0.0, 0.5, 2.0):
        got = floats(focal(*batch, class_weights, gamma))
        slow = slow_pixels(*batch, lambda p, g=gamma: (1 - p) ** g, class_weights)
        assert got == pytest.approx(slow, rel=1e-5)


def test_focal_gradient_is_finite_where_the_label_is_certain(batch):
    _, labels, mask = batch
    certain = 1e4 * np.eye(K, dtype=np.float32)[np.where(labels == 255, 0, labels)]
    gradient = jax.grad(lambda x: focal(x, labels, mask, gamma=0.5)[0])(certain)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("keep", [0, 5, 20, 10_000])
@pytest.mark.parametrize("threshold", [1e-5, 0.7])
def test_ohem_keeps_the_hard_pixels(batch, threshold, keep):
    logits, labels, mask = batch
    shares = shares_of(logits)
    listed = sorted(shares[(*i, labels[i])] for i in counted(labels, mask))
    least = min(2 * keep, len(listed))  # two examples count
    limit = max(threshold, listed[least - 1] if least else 0.0)
    slow = slow_pixels(*batch, lambda p: 1, keep=lambda p: p <= limit * (1 + 1e-6))
    got = floats(jax.jit(lambda *b: ohem(*b, threshold=threshold, keep=keep))(*batch))
    assert got == pytest.approx(slow, rel=1e-5)
    assert got[1] >= least
    if threshold == 1e-5 and keep in (5, 20):
        assert got[1] == 2 * keep
    everything = floats(ohem(*batch, threshold=threshold, keep=keep, normalise="all"))
    assert everything == pytest.approx([slow[0], 2 * H * W], rel=1e-5)


def test_ohem_counts_ties_together_and_weighs_classes():
    logits = np.zeros((1, 2, 3, 2), np.float32)
    labels = np.array([[[0, 1, 0], [1, 255, 0]]], np.int32)
    total, weight = floats(ohem(logits, labels, None, (1.0, 3.0), threshold=0.1, keep=1))
    assert weight == 3 + 2 * 3  # five valid pixels of share 1/2, none before the other
    assert total == pytest.approx(weight * np.log(2), rel=1e-6)
    smooth = floats(ohem(logits, labels, None, None, 0.1, 0.1, 1))
    assert smooth == pytest.approx([5 * np.log(2), 5], rel=1e-6)


def test_ohem_gradient_is_that_of_the_pixels_kept(batch):
    logits, labels, mask = batch
    gradient = jax.grad(lambda x: ohem(x, labels, mask, threshold=0.3, keep=3)[0])(logits)
    full = jax.grad(lambda x: cross_entropy(x, labels, mask)[0])(logits)
    kept = np.any(np.asarray(gradient) != 0, axis=-1)
    assert 0 < kept.sum() < (np.any(np.asarray(full) != 0, axis=-1)).sum()
    np.testing.assert_allclose(gradient[kept], full[kept], atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "slow"), [(dice, slow_dice), (lovasz_softmax, slow_lovasz)], ids=["dice", "lovasz"]
)
def test_regions_equal_float64(batch, loss, slow):
    logits, labels, mask = batch
    fast = jax.jit(loss)
    assert floats(fast(*batch)) == pytest.approx(slow(*batch), rel=1e-5)
    right = 1e4 * np.eye(K, dtype=np.float32)[np.where(labels == 255, 0, labels)]
    assert floats(fast(right, labels, mask))[0] == pytest.approx(0, abs=1e-4)
    assert floats(fast(logits, np.full_like(labels, 255), mask)) == [0, 0]
    # Neither ignored pixels nor padding rows matter, whatever their logits.
    other = np.where(((labels == 255) | (mask == 0)[:, None, None])[..., None], -logits, logits)
    assert floats(fast(other, labels, mask)) == floats(fast(*batch))

    gradient = jax.jit(jax.grad(lambda x: loss(x, labels, mask)[0]))(logits)
    valid = (labels != 255) & (mask > 0)[:, None, None]
    assert np.all(np.asarray(gradient)[~valid] == 0) and np.isfinite(gradient).all()
    for index in ((0, 0, 1, 0), (0, 3, 2, 1), (1, 5, 4, 4), (1, 8, 6, 2)):
        step = np.zeros(logits.shape, np.float64)
        step[index] = 1e-6
        up, down = (slow(logits + s, labels, mask)[0] for s in (step, -step))
        assert float(gradient[index]) == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-5)


def test_lovasz_keeps_its_digits_with_many_pixels():
    """Differences of 1 - IoU in float32 are off by 2 % here, half of the pixels by more."""
    rng = np.random.default_rng(0)
    errors = rng.permutation(1_000_000).astype(np.float32) / 1_000_000
    is_label, counted = rng.uniform(size=(2, errors.size)) < [[0.5], [0.9]]
    is_label &= counted
    ours = np.asarray(jax.jit(regions.jaccard_weights)(errors, is_label, counted))
    order = np.argsort(-errors)
    order = order[counted[order]]
    hit = is_label[order]
    jaccard = 1 - (hit.sum() - np.cumsum(hit)) / (hit.sum() + np.cumsum(~hit))
    np.testing.assert_allclose(ours[order], np.diff(jaccard, prepend=0), rtol=1e-4)


def test_normalising_by_all_pixels(batch):
    logits, labels, _ = batch
    total, weight = floats(cross_entropy(*batch, normalise="all"))
    assert weight == 2 * H * W > floats(cross_entropy(*batch))[1]
    assert total == floats(cross_entropy(*batch))[0]
    assert floats(cross_entropy(logits, labels, normalise="all"))[1] == 3 * H * W
    with pytest.raises(UserError, match='normalise="some" is none of valid, all'):
        cross_entropy(*batch, normalise="some")


def test_soft_targets_of_one_class_are_labels(batch):
    logits, labels, mask = batch[0][:, 0, 0], np.array([2, 0, 1]), batch[2]
    hard = floats(cross_entropy(logits, labels, mask))
    assert floats(soft_cross_entropy(logits, np.eye(K)[labels], mask)) == pytest.approx(hard)
    mixed = 0.3 * np.eye(K)[labels] + 0.7 * np.eye(K)[[1, 4, 0]]
    slow = -np.sum(mixed[:2] * np.log(shares_of(logits)[:2]))
    assert floats(soft_cross_entropy(logits, mixed, mask)) == pytest.approx([slow, 2], rel=1e-5)


def test_terms_add_up_as_means(batch):
    mean = {}
    for name, loss in (("ohem", ohem), ("dice", dice), ("lovasz", lovasz_softmax)):
        total, weight = floats(loss(*batch, keep=4) if name == "ohem" else loss(*batch))
        mean[name] = total / weight
    both = SegmentationLoss("ohem", ohem_keep=4, dice_weight=3.0, lovasz_weight=0.5)
    total, weight = floats(both(*batch))
    assert total / weight == pytest.approx(mean["ohem"] + 3 * mean["dice"] + 0.5 * mean["lovasz"])
    for name in ("dice", "lovasz"):
        total, weight = floats(SegmentationLoss(name)(*batch))
        assert total / weight == pytest.approx(mean[name])


def test_the_task_adds_auxiliary_logits_by_their_own_mean(batch):
    logits, labels, mask = batch
    objective = SegmentationLoss("ohem", ohem_keep=4, ohem_threshold=0.4)
    task = Segmentation(tuple("abcde"), IMAGENET, objective=objective, aux_weight=0.25)
    on_batch = {"label": labels, "mask": mask}
    outputs = {"logits": logits, "branches": (), "aux": (-logits,)}
    total, weight = floats(task.loss(outputs, on_batch))
    own, other = floats(objective(logits, labels, mask)), floats(objective(-logits, labels, mask))
    assert own[1] != other[1]
    assert total / weight == pytest.approx(own[0] / own[1] + 0.25 * other[0] / other[1])
    # A decoder's own branches count as much as its main logits.
    branched = floats(task.loss({**outputs, "branches": (-logits,)}, on_batch))
    assert branched[0] / branched[1] == pytest.approx(own[0] / own[1] + 1.25 * other[0] / other[1])
    # Evaluation tells the cross-entropy, which does not depend on how examples are batched.
    counts = task.counts({"logits": logits, "aux": ()}, on_batch)
    assert float(counts["loss_sum"]) == pytest.approx(floats(cross_entropy(*batch))[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "bce"}, 'loss.name="bce" is none of cross_entropy, ohem, focal, dice, lovasz'),
        ({"normalise": "some"}, "loss.normalise"),
        ({"name": "focal", "label_smoothing": 0.1}, "has no label smoothing"),
        ({"name": "dice", "class_weights": (1.0,) * K}, "weighs all classes alike"),
        ({"name": "lovasz", "normalise": "all"}, 'leave loss.normalise at "valid"'),
        ({"name": "dice", "dice_weight": 1.0}, "set loss.dice_weight to 0"),
    ],
)
def test_settings_without_use_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        SegmentationLoss(**settings)
