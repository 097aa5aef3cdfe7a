"""Cases, processes and tables of the benchmark."""

import dataclasses
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import types

import jax
import pytest
import tiny

import attnseg
from attnseg.benchmark import (
    account,
    cases,
    contest,
    contestant,
    operators,
    ours,
    report,
    roofline,
    targets,
    torch_side,
    worker,
)
from attnseg.benchmark.cases import KERAS, OURS, TORCH, Case
from attnseg.benchmark.contestant import Contestant
from attnseg.benchmark.run import compile_for, run
from attnseg.core.errors import UserError

TINY = Case("depthwise", (4, 5), 2, 3, kernel=(3, 3), peers=())


def test_suites_name_what_exists():
    for name in cases.SUITES:
        chosen = cases.suite(name)
        assert len({c.title for c in chosen}) == len(chosen)
        for case in chosen:
            assert case.name in cases.OPERATORS or case.name in attnseg.list_models()
    assert set(operators.FUNCTIONS) == set(cases.OPERATORS)
    kernels = {c.kernel for c in cases.suite("operators") if c.name == "depthwise"}
    assert kernels >= {(3, 3), (5, 5), (7, 7), (11, 11), (1, 7), (21, 1)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("swin_t", 0, 2, 10, "float32", ""), "1 or more"),
        (("swin_t", 64, 2, 10, "float16", ""), "float16"),
        (("swin_t", 64, 2, 10, "float32", "torch,tensorflow"), "tensorflow"),
        (("swin_t", 64, 2, 10, "float32", "", 0), "1 or more"),
        (("swin_t", 64, 2, 10, "float32", "torch", 2), "peers run on one device"),
        (("depthwise", 64, 2, 10, "float32", "", 2), "depthwise runs on one device"),
        (("swin_t", 64, 3, 10, "float32", "", 2), "--batch=3 does not split"),
    ],
)
def test_mistakes_are_named(arguments, said):
    with pytest.raises(UserError, match=said):
        cases.single(*arguments)


def test_an_unknown_suite_is_refused():
    with pytest.raises(UserError, match="gpus"):
        cases.suite("gpus")


def test_one_operator_from_process_to_table(tmp_path, monkeypatch):
    limits = {"bytes": 1e9, "flops/float32": 1e9}  # a large product is no test
    monkeypatch.setattr(roofline, "measure_apart", lambda: ("cpu", limits))
    lines = []
    table = run([TINY], tmp_path / "out" / "tables", rounds=2, say=lines.append)
    saved = json.loads((tmp_path / "out" / "tables.json").read_text())
    (record,) = saved["records"]
    assert record["who"] == OURS
    assert len(record["train"]) == len(record["infer"]) == 2 * worker.COUNTED
    assert record["facts"]["train"]["memory"] > 0 and record["facts"]["infer"]["flops"] > 0
    rows = [line for line in table.read_text().splitlines() if line.startswith("| depthwise")]
    assert len(rows) == 2 and all(row.count("|") == report.HEADER.count("|") for row in rows)


def test_compiling_for_another_device_runs_nothing_and_tells_memory(tmp_path, monkeypatch):
    other = jax.devices()[1]  # a GPU's compiler is not among what the tests need
    monkeypatch.setattr(targets, "target", lambda name: other)
    compiled = []
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda lowered, compile=jax.stages.Lowered.compile, **options: (
            compiled.append(compile(lowered, **options)) or compiled[-1]
        ),
    )
    case = Case("spatial_reduction", (16, 16), 2, 8, peers=())
    there = ours.build(case).facts
    compiled.clear()
    table = compile_for([case], "h100", tmp_path / "out" / "tables", say=lambda line: None)
    assert len(compiled) == 2
    places = {place for p in compiled for place in jax.tree.leaves(p.input_shardings)}
    assert {place.device_set == {other} for place in places} == {True}
    rows = [line for line in table.read_text().splitlines() if line.startswith(f"| {case.title}")]
    assert [row.split("|")[3].strip() for row in rows] == ["infer", "train"]
    (saved,) = json.loads((tmp_path / "out" / "tables.json").read_text())["records"]
    for mode, facts in saved["facts"].items():
        assert facts["memory"] == there[mode]["memory"] > facts["temporary"]


@pytest.fixture
def shrunk(monkeypatch):
    """Conv2Former's models as small as they can be."""
    sizes = {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "kernel": 3}
    make = ours.create_model
    monkeypatch.setattr(ours, "create_model", lambda *a, **k: make(*a, **k, backbone=sizes))


def test_several_devices_share_the_batch(shrunk):
    case = Case("conv2former_n_cifar", (16, 16), 8, 3, peers=())
    whole, part = (ours.build(dataclasses.replace(case, devices=n)) for n in (1, 2))
    for mode, run_once in part.runs.items():
        run_once()
        part.wait(run_once())  # the step takes the state that it has given
        share = part.facts[mode]["flops"] / whole.facts[mode]["flops"]
        assert 0.4 < share < 0.8  # the update is each one's
    with pytest.raises(UserError, match="JAX_NUM_CPU_DEVICES=64"):
        ours.build(dataclasses.replace(case, devices=64))


@pytest.mark.parametrize("other", [("--suite=cpu",), ("--model=swin_t", "--compile_for=h100")])
def test_devices_are_not_left_unheard(other):
    launch = runpy.run_path(str(tiny.ROOT / "launch" / "benchmark.py"))
    with pytest.raises(UserError, match="--devices goes with"):
        launch["main"](launch["parser"].parse_args(["--devices=2", *other]))


def test_a_table_tells_what_is_of_one_device():
    several = record(OURS, [0.1], title=dataclasses.replace(TINY, devices=2).title)
    several["case"]["devices"] = 2
    several["facts"] = {"infer": {"flops": 1e9, "bytes": 1e9}}
    limits = {"bytes": 1e9, "flops/float32": 1e9}
    table = report.markdown([several], limits, "here")
    row = next(line for line in table.splitlines() if line.startswith("| depthwise"))
    assert "on 2 devices" in row and "%" not in row and "those of one device" in table
    several["case"]["devices"] = 1
    assert "%" in report.markdown([several], limits, "here")


def test_a_network_compiled_for_another_device(shrunk):
    case = Case("conv2former_n_cifar", (16, 16), 2, 3, peers=())
    there = ours.build(case, jax.devices()[1])
    facts, parameters = there.facts, there.parameters
    assert not there.runs and parameters > 0
    kept = facts["train"]["memory"] - facts["train"]["temporary"]
    # The parameters and two moments, once: the new ones take the place of the old.
    assert 1 <= kept / (3 * 4 * parameters) < 1.3
    assert facts["train"]["memory"] > facts["infer"]["memory"] > 4 * parameters


def test_a_case_that_cannot_be_compiled_is_a_row_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "target", lambda name: jax.devices()[1])
    wrong, right = Case("no_such_model", (32, 32), 1, peers=()), TINY
    table = compile_for([wrong, right], "h100", tmp_path / "tables", say=lambda line: None)
    rows = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| ")]
    assert "unknown model" in rows[1][3] and len({len(row) for row in rows}) == 1
    assert rows[-1][1].strip() == TINY.title


def test_an_unknown_gpu_is_refused():
    with pytest.raises(UserError, match="a100, h100"):
        targets.target("h200")


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="JAX has CUDA")
def test_compiling_for_a_gpu_needs_cuda():
    with pytest.raises(UserError, match=r"attnseg\[cuda12\]"):
        targets.target("h100")


def test_a_contestant_that_cannot_run_is_a_row_and_not_the_end():
    case = Case("no_such_model", (32, 32), 1, peers=())
    (record,) = contest.run_case(case, 1, None, lambda line: None)
    assert "no_such_model" in record["error"]
    assert "no_such_model" in report.markdown([record], {"bytes": 1e9}, "here")


READY = '{"parameters": 0, "device": "it", "platform": "cpu", "note": "NHWC"}'
SERVES = """while read line; do case "$line" in
*facts*) echo '{"facts": {}, "resident": 1}';; *) echo '{"seconds": [0.2, 0.1, 0.3]}';; esac; done
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``program(text)`` takes the place of a peer's process; ours answers as it should."""

    def make(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.setattr(contest.sys, "executable", make("ours", f"echo '{READY}'\n{SERVES}"))
    return lambda text: make("peer", text)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (f"echo '{READY}'; read line; echo no kernel image >&2; exit 3", "with 3.*no kernel image"),
        (f"echo '{READY}'; read line; echo '{{\"seconds\": [1.0]}}'; exit 4", "ended with 4"),
        ("echo good morning", "good morning"),
        (f"echo '{READY}'; read line; kill -9 $$", "with -9 .out of memory"),
        (None, "cannot be started"),
    ],
    ids=["died", "died idle", "garbage", "killed", "missing"],
)
def test_the_run_goes_on_without_a_peer(program, does, said):
    peer = "no/such/python" if does is None else program(does)
    case = dataclasses.replace(TINY, peers=(TORCH,))
    ours_, torch = contest.run_case(case, 2, peer, lambda line: None)
    assert len(ours_["infer"]) == len(ours_["train"]) == 6 and ours_["resident"] == 1
    assert re.search(said, torch["error"])
    rows = report.markdown([ours_, torch], {"bytes": 1e9}, "here").splitlines()[-3:]
    assert "ours (NHWC)" in rows[0] and len({row.count("|") for row in rows}) == 1


def test_a_silent_peer_ends_with_all_it_has_started(program, monkeypatch):
    monkeypatch.setattr(contest, "PATIENCE", 1.0)
    with pytest.raises(UserError, match="no answer in 1 s"):
        contest.Worker(TINY, TORCH, program("sleep 600; true"), "cpu")


def test_cases_of_another_platform_are_refused_before_any_runs(tmp_path):
    with pytest.raises(UserError, match="for a gpu, and JAX runs on a cpu"):
        run([TINY], tmp_path / "tables", platform="gpu")
    assert not list(tmp_path.iterdir())


def test_what_the_machine_can_do_is_measured_apart():
    platform, limits = roofline.measure_apart()
    assert platform == "cpu" and set(limits) == {"bytes", "flops/float32"}
    assert min(limits.values()) > 1e7


def test_operations_counted_for_a_gpu_that_is_not_here():
    def product(a, b):
        thrice = lambda a, b: a @ b @ b @ b  # noqa: E731
        return jax.lax.platform_dependent(a, b, cpu=thrice, default=jax.numpy.matmul)

    a, b = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 16), (16, 16)))
    work = account.work_before_compilation(product, (a, b), "cuda")
    assert work == {"flops": 2 * 8 * 16 * 16}


def test_gradients_come_with_the_result():
    x, y, seed = (jax.random.normal(jax.random.key(i), (3, 4)) for i in range(3))
    out, grads = jax.jit(operators.forward_and_gradients(jax.numpy.multiply))(seed, x, y)
    assert (out == x * y).all() and (grads[0] == seed * y).all() and (grads[1] == seed * x).all()


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` passes the time of what is measured."""
    now = [0.0]
    instead = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(contestant, "time", instead)

    def passes(seconds):
        now[0] += seconds

    return passes


def test_short_calls_are_measured_together_on_a_gpu(clock):
    held, waited, answers = iter((7, 5, 9, 8)), [], []
    runs = {"infer": lambda: clock(1e-3), "train": lambda: clock(0.02) or "done"}
    made = Contestant(runs, waited.append, "it", "gpu", compiles=True, peak=lambda: next(held))
    lines = ['{"mode": "train"}', '{"mode": "facts"}']
    worker._serve(made, lines, answers.append, lambda: None)
    _, turn, told = answers
    assert turn["seconds"] == pytest.approx([0.02] * worker.COUNTED)
    assert waited == [None] * 2 + ["done"] * (2 + 1 + worker.COUNTED)
    # The peak of the second call: the first one looks for algorithms.
    assert [told["facts"][mode]["memory"] for mode in runs] == [5, 8]
    assert told["facts"]["train"]["compile_s"] == pytest.approx(0.02)
    assert contestant.calls_for(1e-9, "gpu") == contestant._MOST_CALLS
    assert contestant.calls_for(0.02, "gpu") == 3 and contestant.calls_for(0.02, "cpu") == 1


def test_several_calls_are_waited_for_once():
    begun, waited = [], []
    contestant.timed(lambda: begun.append(1) or len(begun), waited.append, calls=4)
    assert len(begun) == 4 and waited == [4]


def test_what_libraries_print_is_no_answer():
    program = """import os
from attnseg.benchmark.worker import _answers
out = _answers()
os.write(1, b"noise of a compiler\\n")
print("noise of a library", flush=True)
print("an answer", file=out, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "an answer\n" and done.stderr.count("noise") == 2


def test_a_peer_elsewhere_is_refused():
    contestant.check_platform("cpu", "it", "cpu")
    with pytest.raises(UserError, match="runs on a cpu .it., ours on a gpu"):
        contestant.check_platform("cpu", "it", "gpu")


def test_a_step_that_leaves_out_its_update_is_not_timed(shrunk, monkeypatch):
    monkeypatch.setattr(ours, "IMAGENET", ours.IMAGENET._replace(std=(0.0,) * 3))
    with pytest.raises(UserError, match="not finite"):
        ours.build(Case("conv2former_n_cifar", (16, 16), 2, 3, peers=()))


def test_the_faster_layout_is_found_by_trial(clock):
    slow = {"contiguous_format": 0.02, "channels_last": 0.0}
    run = lambda layout: clock(slow[layout])  # noqa: E731
    assert torch_side._faster(run, lambda _: None, "cpu") == "channels_last"


def test_cases_are_chosen_by_several_texts(tmp_path, monkeypatch):
    launch = runpy.run_path(str(tiny.ROOT / "launch" / "benchmark.py"))
    chosen = []
    (tmp_path / "table.md").write_text("")
    monkeypatch.setitem(
        launch["main"].__globals__,
        "run",
        lambda cases, *_, **more: (
            chosen.extend([*cases, more["platform"]]) or tmp_path / "table.md"
        ),
    )
    arguments = ["--suite=cpu", "--only=botnet,swin", f"--output={tmp_path / 'table'}"]
    launch["main"](launch["parser"].parse_args(arguments))
    assert [getattr(c, "name", c) for c in chosen] == ["botnet50", "swin_t", "cpu"]


def record(who, seconds, **more):
    return {"case": {"batch": 4, "dtype": "float32", "devices": 1}, "title": "m", "who": who} | {
        "infer": seconds,
        "train": [],
        "parameters": 2_000_000,
        "device": "d",
        **more,
    }


def test_ratios_and_the_share_of_the_roofline():
    facts = {"infer": {"flops": 1e9, "bytes": 1e6, "compile_s": 3.0, "memory": 5e6}}
    limits = {"bytes": 1e9, "flops/float32": 1e10}
    records = [record(OURS, [0.2, 0.1, 0.4], facts=facts), record(TORCH, [0.3, 0.5, 0.4])]
    records.append({"title": "m", "who": KERAS, "error": "it fell over"})
    ours, torch, keras = report.markdown(records, limits, "here").splitlines()[-3:]
    cells = [cell.strip() for cell in ours.split("|")[1:-1]]
    assert cells[:8] == ["m", "ours", "2.00", "infer", "200.0", "100.0-400.0", "20.00", ""]
    assert cells[8:] == ["3.0", "5", "1.0", "0.00", "50%"]  # 0.1 s of arithmetic in 0.2 s
    assert torch.split("|")[8].strip() == "2.00" and "it fell over" in keras
    assert roofline.share({"flops": 1e9, "bytes": 4e8}, 1.0, limits, "float32") == 0.4
    assert roofline.share({}, 1.0, limits, "float32") is None
