import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.objectives import cross_entropy

K = 5
SUM = jax.jit(cross_entropy)
GRADIENT = jax.jit(jax.grad(lambda *args: cross_entropy(*args)[0]))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    logits = (4 * rng.normal(size=(3, 12, 10, K))).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, 4, 255], (3, 12, 10)).astype(np.int32)
    return logits, labels, np.array([1, 1, 0], np.float32)


def reference(logits, labels, mask, class_weights=None, smoothing=0.0):
    """Loss sum and weight in float64, pixel by pixel."""
    loss = weight = 0.0
    for index in np.ndindex(labels.shape):
        y = labels[index]
        if y == 255 or mask[index[0]] == 0:
            continue
        x = logits[index].astype(np.float64)
        target = np.full(len(x), smoothing / len(x))
        target[y] += 1 - smoothing
        scale = 1.0 if class_weights is None else class_weights[y]
        loss -= scale * np.sum(target * (x - x.max() - np.log(np.sum(np.exp(x - x.max())))))
        weight += scale
    return loss, weight


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0, 0.0, 3.5]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_equal_float64(batch, class_weights, smoothing):
    weights = None if class_weights is None else jnp.array(class_weights)
    loss, weight = jax.jit(cross_entropy, static_argnums=4)(*batch, weights, smoothing)
    assert (float(loss), float(weight)) == pytest.approx(
        reference(*batch, class_weights, smoothing), rel=1e-5
    )
    assert loss.dtype == weight.dtype == jnp.float32


def test_no_mask_counts_every_row(batch):
    logits, labels, _ = batch
    got = [float(x) for x in SUM(logits, labels)]
    assert got == pytest.approx(reference(logits, labels, np.ones(3)), rel=1e-5)


def test_classifier_labels(batch):
    logits, labels, mask = batch[0][:, 0, 0], batch[1][:, 0, 0].copy(), batch[2]
    labels[:] = [255, 2, 3]
    got = [float(x) for x in SUM(logits, labels, mask)]
    assert got == pytest.approx(reference(logits, labels, mask), rel=1e-5)
    assert got[1] == 1


def test_class_255_of_1000_is_a_class():
    logits = np.zeros((2, 1000), np.float32)
    loss, weight = SUM(logits, np.array([255, 3], np.int32))
    assert (float(loss), float(weight)) == pytest.approx((2 * np.log(1000), 2))


def test_gradient_is_softmax_less_target_and_zero_where_ignored(batch):
    logits, labels, mask = batch
    gradient = np.asarray(GRADIENT(logits, labels, mask))
    valid = (labels != 255) & (mask > 0)[:, None, None]
    assert np.all(gradient[~valid] == 0)
    x = np.exp(logits.astype(np.float64))
    expected = x / x.sum(-1, keepdims=True) - np.eye(K)[np.where(valid, labels, 0)]
    np.testing.assert_allclose(gradient[valid], expected[valid], atol=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_give_no_nan(batch, size):
    logits, labels, mask = batch
    huge = np.where(logits > 0, size, -size).astype(np.float32)
    loss, _ = SUM(huge, labels, mask)
    gradient = np.asarray(GRADIENT(huge, labels, mask))
    assert np.isfinite(float(loss))
    assert np.isfinite(gradient).all()
    assert np.all(gradient[labels == 255] == 0)


def test_nothing_valid_is_zero_over_zero_pixels(batch):
    logits, labels, mask = batch
    assert [float(x) for x in SUM(logits, np.full_like(labels, 255), mask)] == [0, 0]


def test_bfloat16_logits_are_summed_in_float32(batch):
    logits, labels, mask = batch
    low = jnp.asarray(logits, jnp.bfloat16)
    loss, weight = SUM(low, labels, mask)
    expected = reference(np.asarray(low.astype(jnp.float32)), labels, mask)
    assert (float(loss), float(weight)) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_said(batch):
    logits, labels, mask = batch
    with pytest.raises(UserError, match="resize the logits"):
        cross_entropy(logits[:, ::2], labels, mask)
    with pytest.raises(UserError, match="class_weights has 2 entries, expected 5"):
        cross_entropy(logits, labels, mask, [1.0, 2.0])
    with pytest.raises(UserError, match="at most 255 classes"):
        cross_entropy(jnp.zeros((1, 2, 2, 300)), jnp.zeros((1, 2, 2), jnp.int32))
