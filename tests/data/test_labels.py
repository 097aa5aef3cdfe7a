"""The scan of all labels before training."""

import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import DATASETS, scan_labels

INFO = DATASETS["shapes"]


class Listed:
    """A source over given labels; counts how often it is read."""

    def __init__(self, labels, cache_dir=None, image_size=None):
        self.labels, self.cache_dir, self.image_size, self.reads = labels, cache_dir, image_size, 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.reads += 1
        label = self.labels[index]
        image = np.zeros((*(self.image_size or label.shape), 3), np.uint8)
        return {"image": image, "label": label, "id": f"e{index}"}

    def __repr__(self):
        return f"Listed({len(self)})"


LABELS = [np.uint8([[0, 1], [1, IGNORE]]), np.uint8([[7, 7, 7]])]


def test_counts():
    report = scan_labels(Listed(LABELS), INFO)
    assert report.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 3]
    assert report.counts.dtype == np.int64
    assert (report.ignored, report.files) == (1, 2)
    assert "background" in report.table() and "42.86 %" in report.table()


def test_first_files_only():
    assert scan_labels(Listed(LABELS), INFO, max_files=1).counts.sum() == 3


def test_scan_is_kept_beside_the_data(tmp_path):
    source = Listed(LABELS, cache_dir=str(tmp_path))
    first = scan_labels(source, INFO)
    source.reads = 0
    second = scan_labels(source, INFO)
    assert source.reads == 0
    assert (second.counts == first.counts).all() and second.ignored == first.ignored
    other = Listed(LABELS[:1], cache_dir=str(tmp_path))
    assert scan_labels(other, INFO).files == 1


def test_damaged_cache_is_written_anew(tmp_path):
    source = Listed(LABELS, cache_dir=str(tmp_path))
    scan_labels(source, INFO)
    (kept,) = tmp_path.iterdir()
    kept.write_text('{"counts": [')
    assert scan_labels(source, INFO).counts.sum() == 6


def test_value_that_is_no_class():
    labels = [LABELS[0], np.uint8([[8, 8, 0]])]
    with pytest.raises(UserError, match=r'"e1": label value 8 \(2 pixels\)'):
        scan_labels(Listed(labels), INFO)


def test_sizes_that_differ():
    with pytest.raises(UserError, match=r'"e0": the image is 5x4 and its annotation 2x2'):
        scan_labels(Listed(LABELS, image_size=(4, 5)), INFO)


def test_sample_is_spread_over_the_split():
    labels = [np.full((1, 1), i, np.uint8) for i in range(8)]
    report = scan_labels(Listed(labels), INFO, max_files=3)
    assert np.flatnonzero(report.counts).tolist() == [0, 3, 7]
    assert report.describe(8).startswith("a sample of 3 of 8 examples")
    assert scan_labels(Listed(labels), INFO).describe(8).startswith("all 8 examples")


def test_faults_are_counted_and_may_be_declared():
    labels = [LABELS[0], np.uint8([[8, 8, 0]]), LABELS[1], np.uint8([[9]])]
    with pytest.raises(UserError, match=r'"e1": label value 8.*; 1 more of the first 4 examples'):
        scan_labels(Listed(labels), INFO, max_failed=1)
    report = scan_labels(Listed(labels), INFO, max_failed=2)
    assert report.files == 2 and report.counts.sum() == 6
    assert len(report.failed) == 2 and "left out: " in report.describe(4)


def test_scan_with_faults_is_not_kept(tmp_path):
    source = Listed([LABELS[0], np.uint8([[9]])], cache_dir=str(tmp_path))
    scan_labels(source, INFO, max_failed=1)
    with pytest.raises(UserError, match="label value 9"):
        scan_labels(source, INFO)


def test_masks_of_0_and_255():
    labels = [np.uint8([[0, IGNORE]]), np.uint8([[0, 0]])]
    with pytest.raises(UserError, match=r"only 0 and 255 \(1 pixels\).*NAME 255"):
        scan_labels(Listed(labels), INFO)
    assert scan_labels(Listed([*labels, np.uint8([[3]])]), INFO).ignored == 1
    with pytest.raises(UserError, match="are ignored"):
        scan_labels(Listed([np.uint8([[IGNORE]])]), INFO)
