"""Order, sharing and resuming of training batches; evaluation sees each example once."""

import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.core.types import IGNORE
from attnseg.data import EvalResize, RandomGeometry, eval_batches, steps_per_epoch, train_batches

GEOMETRY = RandomGeometry(crop=(6, 8), cat_max_ratio=1)


class Numbered:
    """Example `i` is an image filled with `i` and noise-like labels; sizes cycle through a list."""

    cache_dir = None

    def __init__(self, length, sizes=((8, 9),)):
        self._length, self._sizes = length, sizes

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        size = self._sizes[index % len(self._sizes)]
        label = np.random.default_rng(index).integers(0, 5, size, dtype=np.uint8)
        image = np.full((*size, 3), index, np.uint8)
        return {"image": image, "label": label, "id": str(index), "size": np.int32(size)}

    def __repr__(self):
        return f"Numbered({self._length})"


class Whole:
    """Leaves the example as it is."""

    def __call__(self, example, rng):
        return {key: example[key] for key in ("image", "label")}


TEN = Numbered(10)


def take(count, source=TEN, geometry=GEOMETRY, **settings):
    """The first `count` batches."""
    settings = dict(batch_size=4, seed=7) | settings
    iterator = train_batches(source, geometry=geometry, **settings)
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def order(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def test_batch():
    (batch,) = take(1)
    kinds = {key: (value.dtype.str[1:], value.shape) for key, value in batch.items()}
    assert kinds == {
        "image": ("u1", (4, 6, 8, 3)),
        "label": ("i4", (4, 6, 8)),
        "mask": ("f4", (4,)),
    }
    assert (batch["mask"] == 1).all()
    assert steps_per_epoch(Numbered(10), 4) == 2.5


def test_epochs_are_whole_and_shuffled_anew():
    seen = order(take(5, geometry=Whole()))
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second and first != sorted(first)
    assert order(take(5, geometry=Whole(), seed=8)) != seen


def test_geometry_differs_from_epoch_to_epoch():
    source = Numbered(1)
    first, second = take(2, source, batch_size=1)
    assert (first["label"] != second["label"]).any()


def test_resuming_within_an_epoch():
    assert_equal(take(4, start_step=3), take(7)[3:])


def test_processes_share_the_batch():
    shares = [take(3, process_index=i, process_count=2) for i in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*shares, strict=True)]
    assert_equal(joined, take(3))


def shared_memory():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def test_workers_change_nothing_and_leave_nothing():
    before = shared_memory()
    alone = take(7, start_step=1)
    assert_equal(take(7, start_step=1, workers=2), alone)
    # As resumed in the middle of the second epoch, with other workers.
    assert_equal(take(4, start_step=4, workers=4), alone[3:])
    assert not multiprocessing.active_children()
    # Tests in other processes may own some for a while; what leaks stays.
    left = shared_memory() - before
    for _ in range(300):
        left &= shared_memory()
        time.sleep(0.1 if left else 0.0)
    assert not left


def test_closing_twice_and_early():
    iterator = train_batches(Numbered(10), geometry=GEOMETRY, batch_size=2, seed=0)
    next(iterator)
    iterator.close()
    iterator.close()
    assert list(iterator) == []


class Broken(Numbered):
    def __getitem__(self, index):
        raise UserError(f"file {index} is broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_source_reach_the_user(workers):
    with pytest.raises(UserError, match="is broken"):
        take(1, Broken(10), workers=workers)


def test_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match=r"batch of 4 .* 3 processes"):
        take(1, process_count=3)
    with pytest.raises(UserError, match="no examples"):
        take(1, Numbered(0))


def evaluated(source, resize=None, **settings):
    settings = dict(transform=EvalResize(resize), batch_size=4) | settings
    batches = list(eval_batches(source, **settings))
    for batch in batches:
        rows = len(batch["mask"])
        assert len(batch["image"]) == len(batch["label"]) == len(batch["id"]) == rows
        filling = batch["mask"] == 0
        assert (batch["image"][filling] == 0).all() and (batch["label"][filling] == IGNORE).all()
        for row in np.flatnonzero(batch["mask"]):
            expected = source[int(batch["id"][row])]
            np.testing.assert_array_equal(batch["label"][row], expected["label"])
            assert batch["size"][row].tolist() == list(expected["label"].shape)
    return batches


def ids(batches):
    return sorted(int(i) for batch in batches for i in batch["id"] if i)


def test_evaluation_with_a_remainder():
    batches = evaluated(Numbered(11))
    assert ids(batches) == list(range(11))
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 3]
    assert batches[0]["label"].dtype == np.int32


def test_evaluation_of_mixed_sizes():
    batches = evaluated(Numbered(17, sizes=((8, 9), (9, 8), (8, 9), (5, 5))))
    assert ids(batches) == list(range(17))
    assert all(len(batch["mask"]) == 4 for batch in batches)


def test_evaluation_of_many_sizes_keeps_few_waiting():
    source = Numbered(200, sizes=[(4, 4 + i) for i in range(100)])
    assert ids(evaluated(source)) == list(range(200))


def test_evaluation_resizes_the_image_only():
    (batch,) = evaluated(Numbered(2), resize=(16, 18))
    assert batch["image"].shape == (4, 16, 18, 3)
    assert batch["label"].shape == (4, 8, 9)


@pytest.mark.parametrize("length", [1, 9, 10, 16])
def test_evaluation_shared_by_processes(length):
    source = Numbered(length)
    shares = [evaluated(source, process_index=i, process_count=4) for i in range(4)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i in ids(share)) == list(range(length))
    with pytest.raises(UserError, match="one size"):
        evaluated(Numbered(8, sizes=((4, 4), (5, 5))), process_index=1, process_count=2)


def test_import_starts_neither_backend_nor_tensorflow():
    code = (
        "import sys, attnseg.data, jax._src.xla_bridge as bridge; "
        "assert not bridge._backends and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
