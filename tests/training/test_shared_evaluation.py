"""Two processes with two devices each count what one process with four does."""

import json
import os
import socket
import subprocess
import sys

import pytest
import tiny

PROGRAM = tiny.ROOT / "tests" / "training" / "shared_evaluation.py"
TRIES = 4  # ports that someone else takes in between


def start(devices, **environment):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "XLA_FLAGS": flags, **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(PROGRAM)], env=environment, **pipes)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_processes():
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    processes = [start(2, **shared, JAX_PROCESS_ID=str(i)) for i in range(2)]
    try:
        outcomes = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [p.returncode for p in processes], outcomes


@pytest.mark.slow
def test_two_processes_count_what_one_does():
    for _ in range(TRIES):
        codes, outcomes = two_processes()
        if "in use" not in outcomes[0][1]:
            break
    assert codes == [0, 0], outcomes[0][1][-3000:] + outcomes[1][1][-3000:]
    alone = start(4)
    expected, errors = alone.communicate(timeout=500)
    assert alone.returncode == 0, errors[-3000:]
    lines = [line for line in outcomes[0][0].splitlines() if line.startswith("[{")]  # not Gloo's
    assert len(lines) == 2
    for ours, theirs in zip(lines, expected.splitlines(), strict=True):
        (scores, *counted), (other, *others) = json.loads(ours), json.loads(theirs)
        # A sum of float32 over more devices; everything else is exact.
        assert scores.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-5)
        assert scores == other
        assert json.dumps(counted) == json.dumps(others)  # with NaN, which equals nothing
    assert outcomes[1][0].count("[{") == 0  # the second one says nothing
