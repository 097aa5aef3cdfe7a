"""Disks that are full or cannot be written: one sentence, status 2, earlier checkpoints intact."""

import argparse
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_run import is_of, open_run, save, state_of

from attnseg import UserError
from attnseg.core import files
from attnseg.recipe import command
from attnseg.training import step_folder, writer
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.log import MetricLog

TESTS = Path(__file__).parent


def names(workdir):
    """What counts: a thread of TensorStore may write into a failed folder after it was deleted.

    Such a STEP.partial is never used, and the next save deletes it.
    """
    folders = (path.name for path in (workdir / "checkpoints").iterdir())
    return sorted(name for name in folders if not name.endswith(".partial"))


def exits_with_one_line(function, capfd):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.run(argparse.ArgumentParser(), lambda *_: function(), [])
    lines = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


# Each stands for a moment at which the disk refuses: what is called, and how often it succeeds.
MOMENTS = {
    "arrays": (writer.ocp.AsyncCheckpointer, "wait_until_finished", 0),
    "meta": (writer, "write_json", 0),
    "score": (writer, "write_json", 1),
    "manifest": (writer.manifest, "write_bytes", 0),
    "name": (writer.Path, "rename", 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_save_that_fails(tmp_path, monkeypatch, capfd, moment, number):
    save(tmp_path, {2: 0.9, 4: 0.5})
    owner, name, left = MOMENTS[moment]
    real, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        if threading.current_thread().name != "checkpoint":
            return real(*arguments, **options)
        calls.append(name)
        if len(calls) <= left:
            return real(*arguments, **options)
        if moment == "arrays":  # tensorstore keeps only the text
            raise ValueError(f"RESOURCE_EXHAUSTED: writing: {os.strerror(number)} [file=x]")
        raise OSError(number, os.strerror(number), "x")

    checkpoints, _, _ = open_run(tmp_path)
    monkeypatch.setattr(owner, name, failing)

    def run():
        try:
            checkpoints.save(state_of(6), {"batches": 6}, {"miou": 0.7})
        finally:
            checkpoints.close()

    line = exits_with_one_line(run, capfd)
    assert f"checkpoint 6 could not be written to {tmp_path / 'checkpoints'}" in line
    assert os.strerror(number).lower() in line and line.endswith("it goes on from step 4.")
    monkeypatch.undo()
    assert names(tmp_path) == ["2", "4"]
    checkpoints, state, said = open_run(tmp_path)
    assert is_of(state, 4) and not [line for line in said if "half-written" not in line]
    save(tmp_path, {6: 0.7}, checkpoints=checkpoints)
    assert names(tmp_path) == ["2", "4", "6"]


def test_a_failed_save_is_told_before_the_next_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "write_json", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(2), {}, {})
    checkpoints._writer._thread.join()
    with pytest.raises(UserError, match="no space left on device; free some space and start"):
        checkpoints.check()
    checkpoints.check()  # once
    checkpoints.close()


def test_errors_of_programs_stay_what_they_are(tmp_path, monkeypatch):
    def buggy(*_):
        raise KeyError("x")

    monkeypatch.setattr(writer, "write_json", buggy)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(2), {}, {})
    with pytest.raises(KeyError):
        checkpoints.close()


LIMITED = """
import resource, signal, sys
sys.path[:0] = {paths!r}
import conftest, small_run
from attnseg.recipe import command
import argparse
def run(*_):
    checkpoints, state, said = small_run.open_run({workdir!r})
    assert small_run.is_of(state, 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    try:
        checkpoints.save(small_run.state_of(6), {{"batches": 6}}, {{"miou": 0.7}})
    finally:
        checkpoints.close()
command.run(argparse.ArgumentParser(), run, [])
"""


def test_files_that_the_system_cuts_off(tmp_path):
    """A real refusal, of files over 600 bytes, that needs no rights."""
    save(tmp_path, {2: 0.9, 4: 0.5})
    code = LIMITED.format(paths=[str(TESTS), str(TESTS.parent)], workdir=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "checkpoint 6 could not be written" in done.stderr and "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == ["2", "4"]
    checkpoints, state, said = open_run(tmp_path)
    checkpoints.close()
    assert is_of(state, 4) and not [line for line in said if "half-written" not in line]


@pytest.fixture
def mount(tmp_path):
    """Mounts for the test, as far as the system lets us."""
    mounted = []

    def add(*arguments):
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no program to mount with")
    yield add
    for place in reversed(mounted):
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(mount, capfd):
    disk = mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    save(disk, {2: 0.9})
    filler = disk / "filler"
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(0, room - 8192)))  # a few files still fit
    checkpoints, _, _ = open_run(disk)

    def run():
        try:
            checkpoints.save(state_of(4), {"batches": 4}, {"miou": 0.7})
        finally:
            checkpoints.close()

    line = exits_with_one_line(run, capfd)
    assert "checkpoint 4 could not be written" in line and "no space left on device" in line
    assert names(disk) == ["2"]
    filler.unlink()
    checkpoints, state, said = open_run(disk)
    assert is_of(state, 2) and not [line for line in said if "half-written" not in line]
    save(disk, {4: 0.7}, checkpoints=checkpoints)
    assert names(disk) == ["2", "4"]


def test_a_disk_that_cannot_be_written(mount, tmp_path, capfd):
    save(tmp_path / "run", {2: 0.9})
    place = mount("--bind", str(tmp_path / "run"))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
    line = exits_with_one_line(lambda: open_run(place), capfd)
    assert f"{place / 'checkpoints'} cannot be written: read-only file system" in line
    checkpoints = Checkpoints(place)  # to evaluate takes no right to write
    assert checkpoints.find("best") == 2 and checkpoints.meta(2)["batches"] == 2
    checkpoints.close()
    assert names(tmp_path / "run") == ["2"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path, capfd):
    (tmp_path / "run").mkdir(mode=0o500)
    line = exits_with_one_line(lambda: open_run(tmp_path / "run"), capfd)
    assert "permission denied; give yourself the right" in line


def test_a_file_where_a_folder_is_needed(tmp_path, capfd):
    (tmp_path / "run").write_text("not a folder")
    line = exits_with_one_line(lambda: open_run(tmp_path / "run"), capfd)
    assert "cannot be written" in line and "a file stands where a folder is needed" in line
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        open_run(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_metric_log_on_a_full_disk(tmp_path):
    log = MetricLog(tmp_path, tensorboard=False)
    log.close()
    message = r"metrics\.jsonl could not be written: no space left on device; free some space\."
    with Path("/dev/full").open("a") as log._file:  # as if the disk had filled up meanwhile
        with pytest.raises(UserError, match=message):
            log.write(1, "train", {"loss": 1.0})
        log.close()


def test_any_file_that_a_program_cannot_write(tmp_path, capfd):
    (tmp_path / "x").write_text("")
    line = exits_with_one_line(lambda: (tmp_path / "x" / "y").write_text(""), capfd)
    assert f"{tmp_path / 'x' / 'y'} cannot be used: not a directory" in line
    with pytest.raises(UserError, match=r"x/out\.json could not be written"):
        files.write_json(tmp_path / "x" / "out.json", {})
    with pytest.raises(FileNotFoundError):  # a mistake of the program
        command.run(argparse.ArgumentParser(), lambda *_: (tmp_path / "absent").read_text(), [])


def test_written_files_are_whole_or_absent(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"old": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="no space left on device"):
        files.write_json(tmp_path / "a.json", {"new": 1})
    assert "old" in (tmp_path / "a.json").read_text()
    assert step_folder.list_steps(tmp_path) == [] and len(list(tmp_path.iterdir())) == 1
