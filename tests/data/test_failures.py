"""Records that cannot be read: what takes their place, and when there are too many of them."""

import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.data import EvalResize, Replacing, eval_batches, train_batches

FAILING = {0, 4, 5, 9}


class Failing:
    """Ten examples filled with their number; those of `failing` cannot be read."""

    cache_dir = None

    def __init__(self, failing=FAILING):
        self._failing = failing

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index in self._failing:
            raise UserError(f'"file{index}.png" is damaged.')
        full = np.full((4, 4), index, np.uint8)
        size = np.int32([4, 4])
        return {"image": np.dstack([full] * 3), "label": full, "id": str(index), "size": size}

    def __repr__(self):
        return "Failing"


class Whole:
    """Leaves the example as it is."""

    def __call__(self, example, rng):
        return {key: example[key] for key in ("image", "label")}


def take(count, *, source=None, most=4, **settings):
    """Numbers of the examples in `count` batches, and the tally after each batch."""
    settings = dict(batch_size=4, seed=7, max_skipped=most) | settings
    iterator = train_batches(source or Failing(), geometry=Whole(), **settings)
    rows, tallies = [], []
    try:
        for _ in range(count):
            rows.append(next(iterator)["image"][:, 0, 0, 0].tolist())
            tallies.append(sorted(iterator.tally.failed))
    finally:
        iterator.close()
    return rows, tallies


def test_next_readable_record_takes_the_place():
    sound, _ = take(5, source=Failing(set()))
    rows, tallies = take(5)
    place = {0: 1, 4: 6, 5: 6, 9: 1}
    assert rows == [[place.get(i, i) for i in row] for row in sound]
    assert tallies[-1] == sorted(FAILING)


def test_workers_and_resuming_change_nothing():
    alone, tallies = take(6)
    workers, counted = take(6, workers=2)
    assert workers == alone and counted == tallies
    assert take(3, start_step=3)[0] == alone[3:]


def test_too_many(caplog):
    with pytest.raises(UserError, match=r"file\d\.png.*makes 4 records.*data\.max_skipped=3"):
        take(5, most=3)
    assert len({r.message for r in caplog.records if "left out" in r.message}) == 4


def test_too_many_in_a_row_and_nothing_readable():
    with pytest.raises(UserError, match=r"data\.max_skipped=1"):
        Replacing(Failing(), 1)[4]
    with pytest.raises(UserError, match=r"makes 10 records"):
        Replacing(Failing(set(range(10))), 50)[4]


def test_evaluation_leaves_them_out():
    batches = eval_batches(Failing(), transform=EvalResize(), batch_size=4, max_skipped=4)
    assert [i for batch in batches for i in batch["id"] if i] == ["1", "2", "3", "6", "7", "8"]
    with pytest.raises(UserError, match=r"file9.*data\.max_skipped=3"):
        list(eval_batches(Failing(), transform=EvalResize(), batch_size=4, max_skipped=3))
    with pytest.raises(UserError, match="file"):
        list(eval_batches(Failing(), transform=EvalResize(), batch_size=4))


def test_bugs_are_not_skipped():
    class Buggy(Failing):
        def __getitem__(self, index):
            return {}["image"]

    with pytest.raises(KeyError):
        Replacing(Buggy(), 4)[0]
