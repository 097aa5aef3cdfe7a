"""Decoded examples on disk: the same batches, within the bound, in any process, whatever breaks."""

import errno
import os
import pickle
import shutil

import numpy as np
import pytest
from own_folders import image, label, pairs, write

from attnseg.core.errors import UserError
from attnseg.data import Decoded, Folder, RandomGeometry, train_batches
from attnseg.data.pixel_store import PixelStore

IDS = ("a", "b", "c", "d", "é")
SIZES = ((12, 16), (20, 10), (12, 16), (7, 9), (31, 33))
BYTES = sum(4 * h * w for h, w in SIZES)
GEOMETRY = RandomGeometry(crop=(6, 8), cat_max_ratio=0.9, rotation=10)


@pytest.fixture
def folder(tmp_path):
    root = pairs(tmp_path / "data", IDS)
    for seed, (name, size) in enumerate(zip(IDS, SIZES, strict=True)):
        write(root / "images" / f"{name}.png", image(seed, size))
        write(root / "labels" / f"{name}.png", label(seed, size))
    return Folder(str(root), ratios=(1.0, 0.0, 0.0))


def decoded(folder, tmp_path, limit_gb=1.0):
    return Decoded(folder.open("train"), folder.info(), str(tmp_path / "kept"), limit_gb)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value)
        assert getattr(got[key], "dtype", None) == getattr(value, "dtype", None)


def forbid_files(folder):
    """Takes the user's files away: what comes now comes from the store."""
    shutil.rmtree(os.path.join(folder.root, "images"))
    shutil.rmtree(os.path.join(folder.root, "labels"))


def test_examples_are_those_of_the_files(folder, tmp_path):
    plain, kept = folder.open("train"), decoded(folder, tmp_path)
    expected = [plain[i] for i in range(5)]
    for i in (3, 0, 4, 1, 2):
        assert_same(kept[i], expected[i])
    assert kept.describe().startswith("decoded examples in ") and "5 of 5" in kept.describe()
    assert repr(kept) == repr(plain) and len(kept) == 5
    again = decoded(folder, tmp_path)  # as another run opens it
    forbid_files(folder)
    for source in (kept, again, pickle.loads(pickle.dumps(kept))):
        for i in range(5):
            assert_same(source[i], expected[i])


def test_the_stored_pixels_are_mapped_not_read(folder, tmp_path):
    kept = decoded(folder, tmp_path)
    first = kept[0]
    assert first["image"].flags.writeable  # decoded just now
    again = kept[0]["image"]
    assert not again.flags.owndata and not again.flags.writeable
    np.testing.assert_array_equal(
        GEOMETRY(kept[4], np.random.default_rng(0))["label"].shape, (6, 8)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_store(folder, tmp_path, workers):
    def take(source, workers=0):
        stream = train_batches(source, geometry=GEOMETRY, batch_size=3, seed=5, workers=workers)
        try:
            return [next(stream) for _ in range(5)]
        finally:
            stream.close()

    expected = take(folder.open("train"))
    # Room for some: a part comes from the store and a part from the files.
    for limit in (1.0, 0.5 * BYTES / 1e9):
        kept = decoded(folder, tmp_path / str(limit), limit)
        for _ in range(2):
            for got, wanted in zip(take(kept, workers), expected, strict=True):
                assert_same(got, wanted)
    assert 0 < kept._store().size()[0] < 5


def test_it_stays_within_its_bound(folder, tmp_path):
    limit = SIZES[0][0] * SIZES[0][1] * 4 + 10
    kept = decoded(folder, tmp_path, limit / 1e9)
    for i in range(5):
        kept[i]
    assert kept._store().size()[0] == 1
    assert os.path.getsize(f"{kept._path}.pixels") <= limit + 1


def test_changed_files_or_another_label_map_get_a_store_of_their_own(folder, tmp_path):
    first = decoded(folder, tmp_path)
    first[0]
    (tmp_path / "data" / "classes.txt").write_text("road\ncar\ntree 2\nsky 7\n")
    assert decoded(folder, tmp_path)._path != first._path
    (tmp_path / "data" / "classes.txt").write_text("road\ncar\ntree\n")
    assert decoded(folder, tmp_path)._path == first._path
    write(tmp_path / "data" / "images" / "a.png", image(9, SIZES[0]))
    changed = decoded(folder, tmp_path)
    assert changed._path != first._path
    np.testing.assert_array_equal(changed[0]["image"], image(9, SIZES[0]))


@pytest.mark.parametrize("damage", ["index", "pixels", "format"])
def test_a_damaged_store_is_made_anew(folder, tmp_path, damage):
    kept = decoded(folder, tmp_path)
    expected = [folder.open("train")[i] for i in range(5)]
    for i in range(5):
        kept[i]
    if damage == "format":
        with open(f"{kept._path}.index", "r+b") as file:
            file.write(b"\xff" * 8)
    else:
        os.truncate(f"{kept._path}.{damage}", 100)
    again = decoded(folder, tmp_path)
    assert again._store().size() == (0, 0)
    for _ in range(2):
        for i in range(5):
            assert_same(again[i], expected[i])
            if damage == "format":  # who had it open goes on with the old one
                assert_same(kept[i], expected[i])


def test_a_disk_that_fills_up_does_not_stop_training(folder, tmp_path, monkeypatch, caplog):
    kept = decoded(folder, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    expected = [folder.open("train")[i] for i in range(5)]
    for i in range(5):
        assert_same(kept[i], expected[i])
    assert kept._store().size()[0] == 0
    assert len([r for r in caplog.records if "No space left" in r.getMessage()]) == 1


def test_a_full_disk_is_refused_before_training(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GB are free; make room, lower data\.cache_gb"):
        decoded(folder, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be kept in .*data\.prepared.*data\.cache=none"):
        decoded(folder, tmp_path)


def test_what_was_interrupted_is_absent(tmp_path):
    """Pixels without an index entry, as a process killed between the two leaves them."""
    store = PixelStore(tmp_path / "s", 3, 10_000)
    pixels, ids = image(0, (4, 5)), label(0, (4, 5))
    store._index[0, 2] += 500  # claimed, never entered
    assert store.put(1, pixels, ids, "x")
    again = PixelStore(tmp_path / "s", 3, 10_000)
    assert again.get(0) is None
    got = again.get(1)
    np.testing.assert_array_equal(got[0], pixels)
    np.testing.assert_array_equal(got[1], ids)
    assert got[2] == "x"
    again.close()
    np.testing.assert_array_equal(got[0], pixels)
