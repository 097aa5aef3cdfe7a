"""Losses of maps enlarged strip by strip, against enlarging them whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.objectives import SegmentationLoss, enlarged_loss
from attnseg.ops import strips
from attnseg.ops.resize import bilinear_matrix

GRID, SIZE, K = (5, 6), (19, 12), 4  # no whole number of times taller, two times wider


@pytest.fixture(params=[7, 100], autouse=True)
def rows(request, monkeypatch):
    """Rows of a strip, before strips are made nearly equal."""
    numbers = request.param * 3 * SIZE[1] * K
    monkeypatch.setattr(strips, "_STRIP", {"cpu": numbers, "default": numbers})


def arrays():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, (3, *SIZE))
    labels[rng.random(labels.shape) < 0.2] = 255
    return 3 * rng.normal(size=(3, *GRID, K)), labels, np.array([1.0, 0.0, 1.0])


def enlarged(logits):
    rows, columns = (bilinear_matrix(a, b).astype(float) for a, b in zip(GRID, SIZE, strict=True))
    return np.einsum("Hh,Ww,nhwk->nHWk", rows, columns, logits)


LOSSES = {
    "cross_entropy": SegmentationLoss(),
    "smoothed": SegmentationLoss(label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5, 3.0)),
    "all": SegmentationLoss(normalise="all"),
    "focal": SegmentationLoss("focal", class_weights=(1.0, 2.0, 0.5, 3.0)),
    "dice": SegmentationLoss(dice_weight=0.5),
    "ohem": SegmentationLoss("ohem", ohem_keep=30),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_strips_is_that_of_the_enlarged_map(name):
    loss = LOSSES[name]
    logits, labels, mask = arrays()
    with jax.enable_x64(True):
        total, weight = loss(jnp.asarray(enlarged(logits)), labels, mask)
        matrices = [jnp.asarray(bilinear_matrix(a, b)) for a, b in zip(GRID, SIZE, strict=True)]

        def whole(x):
            wide = jnp.einsum("Hh,Ww,nhwk->nHWk", *matrices, x, precision="highest")
            return loss(wide, labels, mask)[0]

        expected = jax.grad(whole)(jnp.asarray(logits))
    run = jax.jit(jax.value_and_grad(lambda x: loss.enlarged(x, labels, mask), has_aux=True))
    (got, got_weight), grad = run(jnp.float32(logits))
    np.testing.assert_allclose(got, total, rtol=1e-5)
    np.testing.assert_allclose(got_weight, weight, rtol=1e-6)
    np.testing.assert_allclose(grad, expected, atol=2e-5)
    assert not np.any(grad[1])  # a row of padding
    # The factor that a mean brings, and the value without a gradient.
    half = jax.grad(lambda x: 0.5 * loss.enlarged(x, labels, mask)[0])(jnp.float32(logits))
    np.testing.assert_allclose(half, 0.5 * expected, atol=2e-5)
    np.testing.assert_allclose(loss.enlarged(jnp.float32(logits), labels, mask)[0], got, rtol=1e-5)


def test_bfloat16_logits_have_a_bfloat16_gradient_of_float32_sums():
    logits, labels, mask = arrays()
    low = jnp.bfloat16(logits)
    value, grad = jax.value_and_grad(lambda x: enlarged_loss(x, labels, mask)[0])(low)
    exact = lambda x: enlarged_loss(x, labels, mask)[0]  # noqa: E731
    expected, exact_grad = jax.value_and_grad(exact)(jnp.float32(low))
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(np.float32(grad), exact_grad, rtol=1e-2, atol=1e-3)


def test_the_enlarged_map_never_exists():
    k, n = 50, 2
    logits = jax.ShapeDtypeStruct((n, 32, 32, k), jnp.float32)
    labels = jax.ShapeDtypeStruct((n, 256, 256), jnp.int32)
    run = jax.jit(jax.grad(lambda x, y: enlarged_loss(x, y)[0]))
    temporary = run.lower(logits, labels).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 4 * n * 256 * 256 * k / 4
