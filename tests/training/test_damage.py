"""Damaged checkpoints: each is named, and the newest sound one is used."""

import json
import logging
import shutil

import jax
import pytest
from small_run import HERE, is_of, open_run, save, state_of

from attnseg import UserError
from attnseg.training import manifest, step_folder
from attnseg.training.checkpoint import Checkpoints


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path):
    path.unlink()


KINDS = {"a flipped bit": flip, "truncated": truncate, "deleted": delete}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Checkpoints 2 (the best), 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, {2: 0.9, 4: 0.5, 6: 0.7})
    assert step_folder.list_steps(folder / "checkpoints") == [2, 4, 6]
    return folder


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def short(name):
    """Names of array files are random."""
    return "/".join(part if len(part) < 32 else part[:4] + "..." for part in name.split("/"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_checkpoint(run, tmp_path, kind, record_property):
    newest = run / "checkpoints" / "6"
    files = sorted(p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file())
    assert {"MANIFEST.json", "meta/metadata", "metrics/metrics", "state/_METADATA"} <= set(files)
    assert len(files) >= 10
    for number, name in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(run, workdir)
        KINDS[kind](workdir / "checkpoints" / "6" / name)
        checkpoints, state, said = open_run(workdir)
        named = [line for line in said if name in line and line.startswith("checkpoint 6 is damag")]
        survived = is_of(state, 4)
        # The run reaches step 6 again, which is then written anew beside what is left of the old.
        checkpoints.save(state_of(6), {"batches": 6}, {"miou": 0.7})
        checkpoints.close()
        checkpoints, state, again = open_run(workdir)
        checkpoints.close()
        survived &= is_of(state, 6) and not again
        survived &= (workdir / "checkpoints" / "6.damaged").is_dir()
        seen = "named" if named else "MISSED"
        used = "step 4 used, 6 written anew" if survived else "LOST"
        record_property("table: files of a checkpoint", (short(name), kind, seen, used))
        assert len(named) == 1 and "\n" not in named[0], (name, said)
        assert survived, (name, said)


def test_nothing_is_changed_before_the_run_goes_on(copy):
    flip(copy / "checkpoints" / "6" / "meta" / "metadata")
    before = sorted(copy.rglob("*"))
    checkpoints, state, _ = open_run(copy)
    checkpoints.close()
    assert is_of(state, 4) and sorted(copy.rglob("*")) == before


def test_a_number_asks_for_just_that_checkpoint(copy):
    flip(copy / "checkpoints" / "6" / "meta" / "metadata")
    checkpoints = Checkpoints(copy)
    message = r"checkpoint 6 is damaged: meta/metadata has other content than was written.*: 2, 4"
    shapes = {"params": jax.eval_shape(lambda: state_of(0)).params}
    for use in (
        lambda: checkpoints.find("6"),
        lambda: checkpoints.meta(6),
        lambda: checkpoints.restore_weights(6, shapes, HERE),
    ):
        with pytest.raises(UserError, match=message):
            use()
    checkpoints.close()


def test_the_best_and_the_latest_of_the_sound_ones_are_found(copy):
    for step in (2, 6):
        flip(copy / "checkpoints" / str(step) / "metrics" / "metrics")
    for which in ("best", "latest"):
        checkpoints, said = Checkpoints(copy), []
        assert checkpoints.find(which, said.append) == 4
        checkpoints.close()
        assert [line[:23] for line in said[:2]] == [f"checkpoint {s} is damaged" for s in (6, 2)]
        assert said[2] == f"of the sound checkpoints the {which} is 4"


def test_who_asks_without_listening_gets_it_in_the_log(copy, caplog):
    truncate(copy / "checkpoints" / "6" / "metrics" / "metrics")
    checkpoints = Checkpoints(copy)
    logging.getLogger("absl").addHandler(caplog.handler)
    try:
        assert checkpoints.latest_step() == 4 and checkpoints.best_step() == 2
    finally:
        logging.getLogger("absl").removeHandler(caplog.handler)
    checkpoints.close()
    assert "checkpoint 6 is damaged and passed over: metrics/metrics has" in caplog.text


def test_the_best_score_is_remembered_when_its_checkpoint_is_damaged(copy):
    flip(copy / "checkpoints" / "2" / "state" / "_METADATA")
    checkpoints, state, said = open_run(copy)
    assert is_of(state, 6) and "checkpoint 2 is damaged" in said[0]
    assert checkpoints.best_score() == (2, 0.9)
    save(copy, {8: 0.6, 10: 0.2, 12: 0.3}, checkpoints=checkpoints)
    names = {path.name for path in (copy / "checkpoints").iterdir()}
    assert names == {"2.damaged", "6", "10", "12"}  # 6 is the best of those that can be used
    checkpoints, _, _ = open_run(copy)
    assert checkpoints.best_score() == (2, 0.9) and checkpoints.find("best") == 6
    assert checkpoints.meta(12)["best"] == {"metric": "miou", "step": 2, "value": 0.9}
    save(copy, {14: 0.95}, checkpoints=checkpoints)
    checkpoints, _, _ = open_run(copy)
    assert checkpoints.best_score() == (14, 0.95) and checkpoints.find("best") == 14
    checkpoints.close()


def test_what_a_dying_process_leaves_behind(copy):
    """While it wrote, in this release and the one before, and while it deleted."""
    folder = copy / "checkpoints"
    for name in ("8.partial", "8.orbax-checkpoint-tmp", "1.removed"):
        shutil.copytree(folder / "6", folder / name)
    shutil.copytree(folder / "6", folder / "7")  # as were it not finished before it was named
    (folder / "7" / manifest.NAME).unlink()
    shutil.copytree(folder / "4", folder / "3")  # not deleted yet
    checkpoints, state, said = open_run(copy)
    text = "\n".join(said)
    assert is_of(state, 6)
    for name in ("8.partial", "8.orbax-checkpoint-tmp"):
        assert f"{name} was half-written when the run stopped and is not used" in text
    assert "checkpoint 7 is damaged and passed over: MANIFEST.json is missing" in text
    assert "removed" not in text and len(said) == 3
    save(copy, {8: 0.1}, checkpoints=checkpoints)
    assert {path.name for path in folder.iterdir()} == {"2", "6", "7.damaged", "8"}


def test_a_run_without_any_sound_checkpoint_stops(copy):
    for step in (2, 4, 6):
        flip(copy / "checkpoints" / str(step) / "state" / "_sharding")
    before = sorted(copy.rglob("*"))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(6: state/_shard.*\)"):
        open_run(copy)
    checkpoints = Checkpoints(copy)
    for which in ("best", "latest"):
        with pytest.raises(UserError, match="every checkpoint"):
            checkpoints.find(which)
    checkpoints.close()
    assert sorted(copy.rglob("*")) == before


def test_a_second_damaged_one_of_the_same_step_is_kept_too(copy):
    folder = copy / "checkpoints"
    for _ in range(2):
        flip(folder / "6" / "meta" / "metadata")
        checkpoints, _, _ = open_run(copy)
        save(copy, {6: 0.7}, checkpoints=checkpoints)
    assert {path.name for path in folder.iterdir()} == {"2", "4", "6", "6.damaged", "6.damaged-2"}


def test_a_checkpoint_of_a_later_release_is_refused(copy, monkeypatch):
    monkeypatch.setattr(step_folder, "FORMAT", step_folder.FORMAT - 1)
    with pytest.raises(UserError, match=r"has format 1, this release reads up to 0; install attns"):
        open_run(copy)


def test_what_does_not_fit_is_named(copy):
    checkpoints = Checkpoints(copy)
    other = jax.eval_shape(lambda: state_of(0, wide=5).replace(ema_params=None))
    shardings = jax.tree_util.tree_map(lambda _: HERE, other)
    with pytest.raises(UserError) as error:
        checkpoints.restore(6, other, shardings)
    message = str(error.value)
    assert "ema_params/a (and 1 more) is in the checkpoint only" in message
    assert "params/a is (3, 4) there and (3, 5) here" in message
    with pytest.raises(UserError, match=r"params/c is not in the checkpoint"):
        wanted = {"params": {**other.params, "c": other.params["a"]}}
        checkpoints.restore_weights(6, wanted, HERE)
    checkpoints.close()


def test_other_versions_are_told(copy, monkeypatch):
    real = Checkpoints.__init__.__globals__["versions"]()
    monkeypatch.setattr(
        "attnseg.training.checkpoint.versions", lambda: real | {"jax": "9.9", "grain": "7"}
    )
    checkpoints, state, said = open_run(copy)
    checkpoints.close()
    made = f"checkpoint 6 was made with jax {real['jax']}, grain {real['grain']}"
    assert is_of(state, 6) and said == [f"{made}; here are jax 9.9, grain 7"]


def test_manifests_are_checked_themselves(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    manifest.write_manifest(tmp_path)
    good = (tmp_path / manifest.NAME).read_bytes()
    assert manifest.find_damage(tmp_path) is None
    assert json.loads(good)["files"]["a"]["bytes"] == 7
    for place in range(len(good)):  # any bit anywhere
        (tmp_path / manifest.NAME).write_bytes(
            good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        )
        assert manifest.find_damage(tmp_path) == "MANIFEST.json is not as it was written"
    for other in (b"", b"[1]", b'{"files": [1]}', b"[" * 100_000, good + b" "):
        (tmp_path / manifest.NAME).write_bytes(other)
        assert manifest.find_damage(tmp_path) == "MANIFEST.json is not as it was written"


def test_a_checkpoint_saved_again_is_there_throughout(tmp_path, monkeypatch):
    """A death between the two renames leaves the old one; else the new one has its scores."""
    save(tmp_path, {2: None})
    folder = tmp_path / "checkpoints"

    def die(*_):
        raise MemoryError("no more")

    checkpoints, _, _ = open_run(tmp_path)
    with monkeypatch.context() as patch:
        rename = type(folder).rename

        def rename_or_die(path, target):
            return die() if path.name == "2.partial" else rename(path, target)

        patch.setattr(type(folder), "rename", rename_or_die)
        checkpoints.save(state_of(2), {"batches": 2}, {"miou": 0.5}, again=True)
        with pytest.raises(MemoryError):
            checkpoints.close()
    assert [path.name for path in folder.iterdir()] == ["2.replaced"]
    checkpoints, state, said = open_run(tmp_path)
    assert is_of(state, 2) and not said
    checkpoints.save(state_of(2), {"batches": 2}, {"miou": 0.5}, again=True)
    checkpoints.close()
    assert [path.name for path in folder.iterdir()] == ["2"]
    checkpoints, state, _ = open_run(tmp_path)
    assert is_of(state, 2) and checkpoints.best_score() == (2, 0.5)
    checkpoints.close()
