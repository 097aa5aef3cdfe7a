import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.objectives import Confusion, accuracy_counts, confusion, count_pairs

K, NEVER, NAMES = 6, 4, ["sky", "road", "car", "tree", "never", "sign"]


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    classes = [0, 1, 2, 3, 5]
    labels = rng.choice([*classes, 255], (3, 40, 50)).astype(np.int32)
    guess = rng.choice(classes, labels.shape)
    predictions = np.where((rng.random(labels.shape) < 0.5) & (labels != 255), labels, guess)
    return labels, predictions.astype(np.int32)


def count(labels, predictions, valid=None):
    return np.asarray(jax.jit(confusion, static_argnums=2)(labels, predictions, K, valid))


def scores_by_loop(labels, predictions):
    """The ten lines every score is held against."""
    kept = labels != 255
    y, p = labels[kept], predictions[kept]
    iou, acc, f1, freq = {}, {}, {}, {}
    for c in range(K):
        hit, either = np.sum((y == c) & (p == c)), np.sum((y == c) | (p == c))
        if either:
            iou[c], f1[c] = hit / either, 2 * hit / (np.sum(y == c) + np.sum(p == c))
        if np.sum(y == c):
            acc[c], freq[c] = hit / np.sum(y == c), np.mean(y == c)
    return iou, acc, f1, freq, np.mean(y == p)


def test_summary_equals_numpy_loop(maps):
    labels, predictions = maps
    total = Confusion(K)
    for label, prediction in zip(labels, predictions, strict=True):
        total.add(count(label[None], prediction[None]))
    summary = total.summary(NAMES)
    iou, acc, f1, freq, right = scores_by_loop(labels, predictions)
    expected = {f"iou/{NAMES[c]}": v for c, v in iou.items()}
    expected |= {f"acc/{NAMES[c]}": v for c, v in acc.items()}
    expected |= {f"f1/{NAMES[c]}": v for c, v in f1.items()}
    kept = labels != 255
    hits = {c: labels[kept & (predictions == c)] == c for c in iou}
    expected |= {f"precision/{NAMES[c]}": np.mean(hit) for c, hit in hits.items()}
    expected["miou"], expected["macc"] = np.mean(list(iou.values())), np.mean(list(acc.values()))
    expected["aacc"], expected["fwiou"] = right, sum(freq[c] * iou[c] for c in freq)
    assert len(iou) == K - 1
    assert summary == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_summary_equals_scikit_learn(maps):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = maps
    predictions = np.where(predictions == 0, NEVER, predictions)
    summary = Confusion(K)
    summary.add(count(labels, predictions))
    summary = summary.summary(NAMES)
    kept = labels != 255
    given = (labels[kept], predictions[kept])
    settings = {"labels": range(K), "average": None, "zero_division": 0}
    for name, function in (
        ("iou", metrics.jaccard_score),
        ("acc", metrics.recall_score),
        ("precision", metrics.precision_score),
        ("f1", metrics.f1_score),
    ):
        theirs = dict(zip(NAMES, function(*given, **settings), strict=True))
        if name == "acc":
            del theirs["never"]  # never labelled: there is nothing to recall
        ours = {n: summary[f"{name}/{n}"] for n in NAMES if f"{name}/{n}" in summary}
        assert ours == pytest.approx(theirs, abs=1e-12)
    assert summary["aacc"] == pytest.approx(metrics.accuracy_score(*given))
    assert summary["macc"] == pytest.approx(metrics.balanced_accuracy_score(*given))
    weighted = metrics.jaccard_score(*given, average="weighted", zero_division=0)
    assert summary["fwiou"] == pytest.approx(weighted)


def test_counts_of_single_examples_add_up(maps):
    labels, predictions = maps
    mask = np.array([1, 0, 1], np.float32)
    single = np.asarray(confusion(labels, predictions, K, mask, by_example=True))
    for row in range(3):
        np.testing.assert_array_equal(single[row], count(*maps, np.eye(3)[row]) * mask[row])
        if mask[row]:
            np.testing.assert_array_equal(
                single[row], count_pairs(labels[row], predictions[row], K)
            )


def test_predicted_but_never_labelled_counts_as_zero(maps):
    labels, predictions = maps
    predictions = np.where(predictions == 0, NEVER, predictions)
    total = Confusion(K)
    total.add(count(labels, predictions))
    summary = total.summary(NAMES)
    iou = scores_by_loop(labels, predictions)[0]
    assert summary["iou/never"] == 0 and summary["f1/never"] == 0
    assert "acc/never" not in summary
    assert summary["miou"] == pytest.approx(np.mean(list(iou.values())))


def test_rows_are_labels_and_columns_predictions():
    matrix = count(np.array([[2, 2, 255]], np.int32), np.array([[3, 2, 3]], np.int32))
    expected = np.zeros((K, K), int)
    expected[2, 3] = expected[2, 2] = 1
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.int32


def test_padding_rows_and_stray_labels_are_not_counted(maps):
    labels, predictions = maps
    padded = count(labels, predictions, jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(padded, count(labels[[0, 2]], predictions[[0, 2]]))
    stray = np.where(labels == 255, K + 3, labels)
    stray[0, 0] = -1
    kept = np.where(stray == labels, labels, 255)
    np.testing.assert_array_equal(count(stray, predictions), count(kept, predictions))


def test_counts_past_int32_and_float32():
    total = Confusion(2)
    batch = np.array([[2**31 - 1, 1], [0, 3]], np.int32)
    for _ in range(3):
        total.add(batch)
    np.testing.assert_array_equal(total.matrix, [[3 * (2**31 - 1), 3], [0, 9]])


def test_what_cannot_be_scored_is_said():
    with pytest.raises(UserError, match="no pixel was counted"):
        Confusion(K).summary(NAMES)
    with pytest.raises(UserError, match="5 class names"):
        Confusion(K).summary(NAMES[:5])
    with pytest.raises(UserError, match="expected 6x6"):
        Confusion(K).add(np.zeros((1, 1), np.int32))
    with pytest.raises(UserError, match="do not fit"):
        confusion(np.zeros((1, 4), np.int32), np.zeros((4,), np.int32), K)


def test_accuracy_counts_equal_sorted_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(64, 9)).astype(np.float32)
    labels = rng.integers(0, 9, 64).astype(np.int32)
    labels[:4] = 255
    mask = (np.arange(64) < 60).astype(np.float32)
    got = jax.jit(accuracy_counts)(logits, labels, mask)
    order = np.argsort(-logits, axis=-1)[4:60]
    assert int(got["count"]) == 56
    assert int(got["top1"]) == np.sum(order[:, 0] == labels[4:60])
    assert int(got["top5"]) == sum(y in row[:5] for y, row in zip(labels[4:60], order, strict=True))


def test_class_255_of_1000_is_a_class():
    logits = np.eye(1000, dtype=np.float32)[[255, 7]]
    got = accuracy_counts(logits, np.array([255, 7], np.int32))
    assert {name: int(v) for name, v in got.items()} == {"top1": 2, "top5": 2, "count": 2}


def test_equal_logits_are_not_all_right():
    got = accuracy_counts(np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32))
    assert (int(got["top1"]), int(got["top5"])) == (1, 5)
