"""Memory of a long run, and the numbers that tell of it."""

import jax
import numpy as np
import overnight
import pytest
from children import Children, flags

from attnseg.core import memory
from attnseg.training.log import read_metrics
from attnseg.training.vitals import Vitals
from attnseg.viz.memory import plot_memory

STEPS = 2000


def test_numbers_of_the_process():
    vitals = Vitals()
    assert vitals.read()["compilations"] == 0
    jax.jit(lambda x: x * 3 + STEPS)(np.float32(1))
    read = vitals.read()
    assert read["compilations"] == 1
    resident = memory.resident_mb()
    if resident is None:
        assert "rss_mb" not in read
        return
    held = np.ones(64 * 2**20, np.uint8)
    assert 32 < memory.resident_mb() - resident < 256
    del held
    memory.release()
    assert memory.resident_mb() - resident < 32


def test_the_figure(tmp_path):
    plot_memory([{"step": 1, "split": "val"}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    rows = [{"step": s, "split": "train", "train/rss_mb": 300.0 + s} for s in range(5)]
    plot_memory(rows, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 5000


@pytest.mark.slow
def test_it_does_not_grow(tmp_path):
    """2000 steps with 40 evaluations and 80 checkpoints."""
    data = overnight.make_data(tmp_path)
    more = {"eval.every": 50, "checkpoint.every": 25, "log.every": 10, "train.steps": STEPS}
    changes = {**overnight.changes("segformer", data, data__workers=0), **more}
    command = flags(changes)
    status, output = Children(overnight.MARK).run(
        "launch/main.py",
        f"--config={overnight.ROOT / 'configs' / 'segformer_b0.py'}:folder",
        f"--workdir={tmp_path / 'run'}",
        *command,
    )
    assert status == 0, output[-3000:]
    assert (tmp_path / "run" / "figures" / "memory.png").exists()
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["split"] == "train"]
    resident = {r["step"]: r["train/rss_mb"] for r in rows}
    assert len({r["train/compilations"] for r in rows if r["step"] > 100}) == 1
    quarters = [
        np.mean([v for s, v in resident.items() if lo < s <= lo + STEPS // 4])
        for lo in range(0, STEPS, STEPS // 4)
    ]
    print("MiB, mean of each quarter:", [round(float(q), 1) for q in quarters])
    # The first quarter ends warming up; from then on a leak of 20 kB a step would show.
    assert quarters[3] - quarters[1] < 20
