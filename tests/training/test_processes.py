"""Several processes: how they find each other, and two real ones that equal one."""

import re
import signal
import time

import numpy as np
import overnight
import pytest
from children import Children, finish, flags, free_port, records
from overnight import ROOT

import attnseg
from attnseg.core import processes
from attnseg.data.failures import Tally
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.interrupt import STATUS

JAX = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
TORCH = {"MASTER_ADDR": "h", "MASTER_PORT": "29500", "WORLD_SIZE": "8", "RANK": "5"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}


def job(address, total, number, **more):
    names = ("coordinator_address", "num_processes", "process_id")
    return dict(zip(names, (address, total, number), strict=True), **more)


@pytest.mark.parametrize(
    "environment, arguments, expected",
    [
        ({}, (), None),
        ({}, ("auto",), {}),
        ({}, ("h:5", 2, 1), job("h:5", 2, 1)),
        (JAX, (), job("a:1", 4, 3)),
        (JAX | TORCH, (), job("a:1", 4, 3)),
        (JAX, ("h:5", 2, 0), job("h:5", 2, 0)),
        (TORCH, (), job("h:29500", 8, 5)),
        (TORCH | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, (), job("h:29501", 8, 5)),
        (
            TORCH | {"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"},
            (),
            job("h:29500", 8, 5, local_device_ids=[1]),
        ),
        (TORCH | {"WORLD_SIZE": "1", "RANK": "0"}, (), None),
        (SLURM, (), {}),
        (SLURM | {"SLURM_NTASKS": "1"}, (), None),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, (), None),
    ],
)
def test_how_a_job_is_described(environment, arguments, expected):
    assert processes.describe(environment, *arguments) == expected


@pytest.mark.parametrize(
    "environment, arguments, message",
    [
        ({}, ("h:5",), "needs --num_processes and --process_id too"),
        ({}, ("h", 2, 0), '"h" is not an address; use HOST:PORT'),
        ({}, ("h:99999", 2, 0), "is not an address"),
        ({}, ("h:5", 2, 2), "process 2 of 2 does not exist; they are numbered 0 to 1"),
        ({}, ("h:5", 0, 0), "a job of 0 processes"),
        ({"JAX_PROCESS_ID": "0"}, (), "needs JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES too"),
        (JAX | {"JAX_NUM_PROCESSES": "four"}, (), 'JAX_NUM_PROCESSES="four" is not a number'),
        ({"WORLD_SIZE": "2", "RANK": "0"}, (), "needs MASTER_ADDR, MASTER_PORT too"),
        (
            TORCH | {"LOCAL_WORLD_SIZE": "2"},
            (),
            'LOCAL_RANK="" is not a number',
        ),
    ],
)
def test_wrong_descriptions(environment, arguments, message):
    with pytest.raises(attnseg.UserError, match=re.escape(message)):
        processes.describe(environment, *arguments)


def test_one_process_waits_for_nobody():
    processes.meet()
    assert processes.gather("x") == ["x"] and (processes.count(), processes.index()) == (1, 0)
    with processes.main_first():
        processes.leave("nothing happens", 2)


def test_records_that_others_could_not_read_count():
    tally = Tally(range(10), most=2)
    tally.include([3])
    tally.include([3, 4])
    assert tally.failed == {3, 4}
    with pytest.raises(attnseg.UserError, match=r"3 records .* data.max_skipped=2"):
        tally.include([5])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return overnight.make_data(tmp_path_factory.mktemp("data"))


def settings(data, **more):
    changes = overnight.changes("segformer", data, **more)
    return {**changes, "data.workers": more.get("data__workers", 0)}


def start_two(children, data, workdir, **more):
    """Two processes of two devices each; by flags the first, by environment the second."""
    address = f"127.0.0.1:{free_port()}"
    changes = flags(settings(data, **more))
    program = [
        "launch/main.py",
        f"--config={ROOT / 'configs' / overnight.JOBS['segformer'][0]}",
        f"--workdir={workdir}",
        *changes,
    ]
    here = [f"--coordinator_address={address}", "--num_processes=2", "--process_id=0"]
    host, port = address.split(":")
    there = {"MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "1"}
    return [
        children.start(*program, *here, devices=2),
        children.start(*program, devices=2, **there),
    ]


def run_two(children, data, workdir, **more):
    """Statuses and outputs; once more where another program took the port."""
    for _ in range(3):
        ends = [finish(p) for p in start_two(children, data, workdir, **more)]
        if not any("did not find each other" in output for _, output in ends):
            return ends
    return ends


def assert_equal_runs(ours, theirs):
    """Numbers of two runs of different layout."""
    ours, theirs = records(ours), records(theirs)
    assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name == "train/loss" or name.startswith("val/loss"):
                np.testing.assert_allclose(value, other[name], rtol=1e-5, err_msg=name)
            elif name.startswith(("train/", "val/")) and value is not None:
                np.testing.assert_allclose(value, other[name], rtol=2e-3, err_msg=name)


def whole(data, workdir, **more):
    """The same run in this process."""
    config = overnight.config("segformer", data, **{"data__workers": 0, **more})
    return attnseg.train(config, workdir, say=lambda _: None)


# One epoch: every record is met.
SHORT = dict(train__steps=6, eval__every=3, data__on_error="skip", model__backbone__drop_path=0.0)


@pytest.mark.slow
def test_two_processes_equal_one(data, tmp_path):
    """With a file that only one of them meets, which both then count."""
    damaged = data / "pairs" / "images" / "train" / "5.png"
    sound = damaged.read_bytes()
    children = Children(overnight.MARK)
    try:
        damaged.write_bytes(b"nothing")
        whole(data, tmp_path / "one", **SHORT, data__scan=0)
        ends = run_two(children, data, tmp_path / "two", **SHORT, data__scan=0)
    finally:
        damaged.write_bytes(sound)
    assert [status for status, _ in ends] == [0, 0], ends
    assert not children.left_behind()
    assert "results in" in ends[0][1] and "results in" not in ends[1][1]  # one speaks
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    assert records(tmp_path / "two")[-2]["train/skipped"] == 1
    assert (tmp_path / "two" / "results.json").exists()
    metas = []
    for name in ("one", "two"):
        checkpoints = Checkpoints(tmp_path / name)
        metas.append(checkpoints.meta(6)["skipped"])
        checkpoints.close()
    assert metas[0] == metas[1] and len(metas[0]) == 1


@pytest.mark.slow
def test_two_processes_stop_and_go_on(data, tmp_path):
    """A signal to one of them stops both at one step; they go on, as one process may as well."""
    children = Children(overnight.MARK)
    long = dict(train__steps=400, eval__every=200, checkpoint__every=200, log__every=50)
    pair = start_two(children, data, tmp_path / "two", **long, data__workers=1)
    until = time.monotonic() + 240
    log = tmp_path / "two" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n")) and time.monotonic() < until:
        time.sleep(0.2)
    pair[1].send_signal(signal.SIGTERM)
    ends = [finish(p) for p in pair]
    assert [status for status, _ in ends] == [STATUS] * 2, ends
    stopped = re.search(r"stopped at step (\d+) of 400", ends[0][1])
    assert stopped and not children.left_behind()
    ends = run_two(children, data, tmp_path / "two", **long)
    assert [status for status, _ in ends] == [0, 0], ends
    assert f"resumed from step {stopped[1]}" in ends[0][1]
    ends = run_two(children, data, tmp_path / "straight", **long)
    assert [status for status, _ in ends] == [0, 0], ends
    assert records(tmp_path / "two") == records(tmp_path / "straight")  # bit for bit


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(data, tmp_path):
    """Only one meets the damaged file; neither hangs and nothing is left behind."""
    damaged = data / "pairs" / "images" / "train" / "5.png"
    sound = damaged.read_bytes()
    children = Children(overnight.MARK)
    try:
        damaged.write_bytes(b"nothing")
        ends = run_two(children, data, tmp_path, train__steps=50, data__scan=0)
    finally:
        damaged.write_bytes(sound)
    # What the other one ends with is up to the runtime, should it lose its peer first.
    assert all(status != 0 for status, _ in ends), ends
    assert any(re.search(r"error: .*5\.png", output) for _, output in ends), ends
    assert not children.left_behind()
    assert not list(tmp_path.glob("results.json"))
