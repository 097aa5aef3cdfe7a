import jax
import numpy as np
import pytest

from attnseg.core.types import IMAGENET
from attnseg.objectives import count_pairs, cross_entropy
from attnseg.ops.resize import resize_bilinear
from attnseg.tasks import segmentation
from attnseg.tasks.segmentation import Segmentation

K = 4
TASK = Segmentation(tuple("abcd"), IMAGENET)


@pytest.mark.parametrize("height", [30, 32, 45])
def test_counts_in_strips_are_those_of_the_whole(monkeypatch, height):
    monkeypatch.setattr(segmentation, "ROWS", 16)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 9, 11, K)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, 255], (3, height, 37)).astype(np.int32)
    mask = np.array([1, 1, 0], np.float32)
    batch, outputs = {"label": labels, "mask": mask}, {"logits": logits, "aux": ()}
    counts = jax.device_get(jax.jit(TASK.counts)(outputs, batch))
    full = np.asarray(resize_bilinear(logits, (height, 37)))
    classes = np.argmax(full, -1)
    np.testing.assert_array_equal(counts["classes"], classes)
    np.testing.assert_array_equal(TASK.predict(outputs, (height, 37)), classes)
    assert counts["classes"].dtype == np.uint8
    for row in range(2):
        expected = count_pairs(labels[row], classes[row], K)
        np.testing.assert_array_equal(counts["confusion"][row], expected)
    assert not counts["confusion"][2].any()
    loss, weight = cross_entropy(full, labels, mask)
    assert float(counts["loss_sum"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(counts["weight"]) == float(weight)


def test_no_strip_is_wider_than_itself():
    """The largest array of the compiled counts: full-size logits would be 4 times as large."""
    logits = jax.ShapeDtypeStruct((1, 128, 128, 64), np.float32)
    batch = {
        "label": jax.ShapeDtypeStruct((1, 512, 512), np.int32),
        "mask": jax.ShapeDtypeStruct((1,), np.float32),
    }
    task = Segmentation(tuple(map(str, range(64))), IMAGENET)
    lowered = jax.jit(task.counts).lower({"logits": logits, "aux": ()}, batch)
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < 512 * 512 * 64 * 4
