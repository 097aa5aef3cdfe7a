"""Boundary IoU against the paper's own way: erode the mask of every class, one at a time."""

import cv2
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.objectives import boundary_counts, boundary_summary
from attnseg.objectives.boundary import boundary_distance, inner_boundary

K, NEVER = 5, 3


def boundary_by_erosion(mask, distance):
    """A mask without itself eroded; beyond the image there is nothing."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def by_loop(labels, predictions, share):
    distance = max(1, round(share * np.hypot(*labels.shape)))
    counts = np.zeros((3, K), np.int64)
    for c in range(K):
        truth, guess = labels == c, (predictions == c) & (labels != 255)
        truth, guess = boundary_by_erosion(truth, distance), boundary_by_erosion(guess, distance)
        counts[:, c] = truth.sum(), guess.sum(), (truth & guess).sum()
    return counts


def blobs(seed, size, classes):
    """Classes in patches of all sizes."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=size), (0, 0), 4) for _ in classes]
    return np.asarray(classes)[np.argmax(noise, axis=0)]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.06])
@pytest.mark.parametrize("size", [(60, 83), (41, 40)])
def test_counts_equal_erosion_class_by_class(size, share):
    labels = blobs(0, size, [0, 1, 2, 4, 255])  # a class is absent, some pixels are ignored
    predictions = np.where(blobs(1, size, [0, 1]) == 0, labels, blobs(2, size, [0, 1, 2, 4]))
    predictions = np.where(predictions == 255, 4, predictions)
    got = boundary_counts(labels, predictions, K, share)
    np.testing.assert_array_equal(got, by_loop(labels, predictions, share))
    assert got[:, [0, 1, 2, 4]].all() and not got[:, NEVER].any()
    summary = boundary_summary(got, list("abcde"))
    expected = [b / (t + p - b) for t, p, b in got[:, [0, 1, 2, 4]].T]
    assert summary["mbiou"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert [summary[f"biou/{n}"] for n in "abce"] == pytest.approx(expected, abs=1e-12)
    assert "biou/d" not in summary


def test_what_is_predicted_where_labels_are_ignored_does_not_count():
    labels = blobs(0, (50, 50), [0, 1, 255])
    predictions = blobs(3, (50, 50), [0, 1, 2])
    other = np.where(labels == 255, 4, predictions)
    same = boundary_counts(labels, predictions, K), boundary_counts(labels, other, K)
    np.testing.assert_array_equal(*same)


def test_distance_is_a_share_of_the_diagonal():
    assert boundary_distance((300, 400)) == 10
    assert boundary_distance((3, 4)) == 1
    square = np.zeros((20, 20), np.uint8)
    square[5:15, 5:15] = 1
    band = inner_boundary(square, 2) & (square == 1)
    assert band.sum() == 10 * 10 - 6 * 6


def test_perfect_maps_have_one_and_nothing_has_no_score():
    labels = blobs(0, (50, 50), [0, 1, 2])
    summary = boundary_summary(boundary_counts(labels, labels, K), list("abcde"))
    assert set(summary.values()) == {1.0}
    assert boundary_summary(np.zeros((3, K), np.int64), list("abcde")) == {}
    with pytest.raises(UserError, match="do not fit"):
        boundary_counts(labels, labels[:-1], K)
