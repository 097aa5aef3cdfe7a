"""SIGTERM and SIGINT: save, a status of its own, and a next start that shows no trace."""

import json
import os
import signal
import threading

import overnight
import pytest
from children import Children, records

import attnseg
from attnseg.recipe import assemble
from attnseg.training.interrupt import STATUS, Interrupt, Stopped


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return overnight.make_data(tmp_path_factory.mktemp("data"))


def train(data, workdir, say=lambda _: None):
    config = overnight.config(
        "segformer", data, train__steps=8, data__workers=0, checkpoint__every=100
    )
    return attnseg.train(config, workdir, say=say)


def kill_self(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def at(line_start, number):
    def say(line):
        if line.startswith(line_start):
            kill_self(number)

    return say


_made = []


@pytest.fixture
def whole(data, tmp_path_factory, compile_quickly):
    """Compiled like the others: not before `compile_quickly`, as a module's fixture would be."""
    if not _made:
        folder = tmp_path_factory.mktemp("whole")
        _made.append((folder, train(data, folder)))
    return _made[0]


def test_stopped_between_steps(data, whole, tmp_path):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped, match="is saved") as stopped:
        train(data, tmp_path, at("step 2/", signal.SIGINT))
    assert stopped.value.code == STATUS == 75
    assert stopped.value.step in (2, 3)  # at most one more step
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not (tmp_path / "results.json").exists()
    assert train(data, tmp_path) == whole[1]
    assert records(tmp_path) == records(whole[0])


@pytest.mark.parametrize("evaluation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_evaluation_cut_short_is_made_up_for(evaluation, data, whole, tmp_path, monkeypatch):
    """In the middle of the run and at its end; scores, log and best checkpoint are the same."""
    original, seen = assemble.eval_batches, []

    def batches(*arguments):
        for number, batch in enumerate(original(*arguments)):
            if number == 1:
                seen.append(number)
                if len(seen) == evaluation:
                    kill_self()
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(assemble, "eval_batches", batches)
        with pytest.raises(Stopped) as stopped:
            train(data, tmp_path)
    assert stopped.value.step == 4 * evaluation
    assert len([r for r in records(tmp_path) if r["split"] == "val"]) == evaluation - 1
    # A kill while it is made up for leaves a record, which must not be there twice.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4 * evaluation, "split": "val", "val/miou": 2.0}) + "\n")
    said = []
    assert train(data, tmp_path, said.append) == whole[1]
    assert f"resumed from step {4 * evaluation} of 8" in said
    assert records(tmp_path) == records(whole[0])
    best = [attnseg.evaluate(folder, say=lambda _: None) for folder in (tmp_path, whole[0])]
    assert best[0] == best[1]


CODE = """
import os, signal, threading, time
from attnseg.training.interrupt import Interrupt
told = threading.Event()
def say(line):
    print(line, flush=True)
    told.set()
with Interrupt(say) as interrupt:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)  # a launcher's repetition
    told.wait()
    print("first", interrupt.signal, flush=True)
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(200)
"""


def test_a_second_signal_ends_at_once():
    status, output = Children(overnight.MARK).run("-c", CODE)
    assert status == 128 + signal.SIGTERM
    assert output.splitlines()[0].startswith(("SIGINT: finishes the step", "SIGTERM: finishes"))
    assert "first" in output and len(output.splitlines()) == 2


def test_in_another_thread_signals_are_left_alone():
    handler = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with Interrupt():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [handler]
