"""Starting programs of ours in processes of their own, and finding what they leave behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds: machines may be busy


class Children:
    """Programs that share a mark in their environment, which their own children inherit."""

    def __init__(self, mark):
        self.mark = f"a{uuid.uuid4().hex[:5]}"  # names of shared memory are short
        self._variable = f"{mark}={self.mark}".encode()
        self.environment = {
            **os.environ,
            mark: self.mark,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, *arguments, devices=1, **environment):
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**self.environment, "XLA_FLAGS": flags, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a signal to the group reaches no test
        )

    def run(self, *arguments, patience=PATIENCE, **options):
        """Status and output."""
        return finish(self.start(*arguments, **options), patience)

    def left_behind(self):
        """Processes and shared memory that are there after a while."""
        until = time.monotonic() + 60
        while (left := self._processes() + self._segments()) and time.monotonic() < until:
            time.sleep(0.2)
        return left

    def _processes(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._variable in (folder / "environ").read_bytes():
                    found.append(f"process {(folder / 'cmdline').read_bytes()}")
            except OSError:
                continue  # ended, or somebody else's
        return found

    def _segments(self):
        return [str(path) for path in Path("/dev/shm").glob(f"{self.mark}*")]


def finish(process, patience=PATIENCE):
    """Status and output of a process, which is killed with its group after so many seconds."""
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"no end after {patience} s: {output[-3000:]}") from None
    return process.returncode, output


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def flags(changes):
    """``--config.a.b=V`` for each change."""
    return [f"--config.{key}={value}" for key, value in changes.items()]


def records(workdir):
    """metrics.jsonl without what depends on the machine."""
    machine = ("images_per_second", "data_wait", "rss_mb", "compilations")
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.endswith(machine)} for line in lines
    ]
