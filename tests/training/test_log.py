import json

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from attnseg.core.errors import UserError
from attnseg.training.log import MetricLog, Progress, read_metrics


def steps(workdir):
    return [r["step"] for r in read_metrics(workdir / "metrics.jsonl")]


def write(workdir, numbers, **options):
    log = MetricLog(workdir, tensorboard=False, **options)
    for step in numbers:
        log.write(step, "train", {"loss": 1.0 / step})
    log.close()


def test_schema_is_flat_and_a_line_is_on_disk_at_once(tmp_path):
    log = MetricLog(tmp_path / "run", tensorboard=False)
    log.write(10, "train", {"loss": np.float32(1.5), "iou/road": 0.25})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x) for x in lines] == [
        {"step": 10, "split": "train", "train/loss": 1.5, "train/iou/road": 0.25}
    ]
    log.close()


def test_non_finite_values_become_null(tmp_path):
    log = MetricLog(tmp_path, tensorboard=False)
    log.write(1, "train", {"loss": float("nan"), "norm": float("inf"), "lr": 0.1})
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "step": 1, "split": "train", "train/loss": None, "train/norm": None, "train/lr": 0.1
    }  # fmt: skip


def test_resume_drops_later_lines_and_logs_them_once(tmp_path):
    write(tmp_path, [10, 20, 30, 40])
    write(tmp_path, [30, 40, 50], resume_step=20)
    assert steps(tmp_path) == [10, 20, 30, 40, 50]
    write(tmp_path, [60])
    assert steps(tmp_path) == [10, 20, 30, 40, 50, 60]
    write(tmp_path, [10], resume_step=0)
    assert steps(tmp_path) == [10]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", ['{"step": 30, "spl', '{"step": 30, "split": "train"}', "12", "é"])
def test_torn_last_line_is_read_around_and_not_run_into(tmp_path, torn):
    write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + torn.encode()[: len(torn)])
    whole = [30] if torn.endswith("}") else []
    assert steps(tmp_path) == [10, 20, *whole]
    write(tmp_path, [40])
    assert steps(tmp_path) == [10, 20, *whole, 40]


def test_damage_before_the_end_and_a_missing_file_are_said(tmp_path):
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(tmp_path / "metrics.jsonl")
    write(tmp_path, [10, 20, 30])
    path = tmp_path / "metrics.jsonl"
    first, _, last = path.read_text().splitlines()
    path.write_text(f"{first}\nrubbish\n{last}\n")
    with pytest.raises(UserError, match="line 2 is not a record"):
        MetricLog(tmp_path, tensorboard=False, resume_step=20)
    assert "rubbish" in path.read_text()


def events(folder):
    """The events of a folder: records of length, checksum, payload, checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_tensorboard_gets_scalars_pictures_and_the_restart(tmp_path):
    log = MetricLog(tmp_path, resume_step=4)
    log.write(5, "val", {"miou": 0.5})
    log.image(5, "val/overlay", np.zeros((4, 6, 3), np.uint8))
    log.close()
    found = events(tmp_path / "logs")
    values = {v.tag: (e.step, v) for e in found for v in e.summary.value}
    assert values["val/miou"][0] == 5 and values["val/miou"][1].simple_value == 0.5
    picture = values["val/overlay"][1].image
    assert (picture.height, picture.width) == (4, 6)
    assert any(e.step == 5 and e.session_log.status == e.session_log.START for e in found)
    assert "overlay" not in (tmp_path / "metrics.jsonl").read_text()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_progress_line_and_rates():
    clock = Clock()
    progress = Progress(4000, 8, start_step=100, clock=clock)
    clock.now += 20
    line = progress.line(150, {"loss": 1.23456, "lr": 6e-5, "norm": 3.0}, seconds_waiting=1.0)
    assert line == (
        "step  150/4000    3.8%  loss 1.2346  lr 6.00e-05  20.0 images/s  data wait 5%  "
        "ETA 00:25:40"
    )
    assert progress.rates == {"images_per_second": 20.0, "data_wait": 0.05}


def test_progress_window_is_the_last_one_and_eta_forgets_compiling():
    clock = Clock()
    progress = Progress(1000, 4, clock=clock)
    clock.now += 100
    assert progress.line(10, {}, 0.0).endswith("ETA 02:45:00")
    for step in range(20, 200, 10):
        clock.now += 10
        line = progress.line(step, {}, 0.0)
    assert "  4.0 images/s" in line
    assert line.endswith("ETA 00:13:30")


def test_progress_does_not_count_pauses():
    clock = Clock()
    progress = Progress(100, 1, clock=clock)
    clock.now += 5
    progress.pause()
    clock.now += 1000
    progress.resume()
    progress.resume()
    clock.now += 5
    assert progress.line(10, {}, 5.0).endswith("1.0 images/s  data wait 50%  ETA 00:01:30")


def test_progress_at_the_end():
    clock = Clock()
    progress = Progress(10, 1, start_step=10, clock=clock)
    assert "step 10/10  100.0%" in progress.line(10, {}, 0.0)
    assert progress.rates["images_per_second"] == 0
