"""Memory of evaluating an image that is large, measured in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import tiny


def evaluated(side, *options):
    program = str(tiny.ROOT / "tests" / "training" / "large_image.py")
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, program, str(side), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_8192_pixels_square_take_less_than_4_gib():
    """Logits of the whole image alone would take 4.75 GiB."""
    found = evaluated(8192)
    assert found["pixels"] == 8192**2 - 1024**2
    assert found["peak_gib"] < 4
    # Only pixels beside the edges of the stripes are wrong, enlarged from every fourth.
    assert found["aacc"] > 0.95 and found["programs"] == 3
