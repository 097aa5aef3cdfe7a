"""A loss or gradient that is not finite: what is told, kept, left out and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import overnight
import pytest
from children import records

import attnseg
from attnseg.core.tree import flat
from attnseg.recipe import assemble
from attnseg.training import loop
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.evaluate import to_device
from attnseg.training.guard import block_norms

BAD = 3  # the step whose batch spoils everything


class Spoiled:
    """Batches of which some are marked: their mask begins with 2."""

    def __init__(self, batches, start, bad):
        self._batches, self._step, self._bad = batches, start, bad
        self.tally = batches.tally

    def __next__(self):
        batch = next(self._batches)
        self._step += 1
        if self._step in self._bad:
            batch["mask"][0] = 2.0
        return batch

    def close(self):
        self._batches.close()


class SpoiledTask:
    """A task whose loss is no number for marked batches."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def loss(self, outputs, batch):
        total, weight = self._task.loss(outputs, batch)
        return total * jnp.where(jnp.any(batch["mask"] > 1), jnp.nan, 1.0), weight


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return overnight.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def spoil(monkeypatch):
    original = assemble.train_batches

    def spoil(*bad):
        def batches(config, source, start):
            return Spoiled(original(config, source, start), start, bad)

        monkeypatch.setattr(assemble, "train_batches", batches)
        task = assemble.build_task
        monkeypatch.setattr(assemble, "build_task", lambda config: SpoiledTask(task(config)))

    return spoil


SETTINGS = dict(data__workers=0, eval__every=100, train__steps=6)


def train(data, workdir, say=lambda _: None, **more):
    config = overnight.config("segformer", data, **{**SETTINGS, **more})
    return attnseg.train(config, workdir, say=say)


def latest(data, workdir, step=None):
    config = overnight.config("segformer", data, **SETTINGS)
    source = assemble.open_split(config, "val")
    job = assemble.build_job(config, train=source, val=source)
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore(step or checkpoints.latest_step(), *loop.abstract_state(job))
    checkpoints.close()
    return jax.device_get(state)


@pytest.mark.parametrize("log_every", [1, 100])
def test_it_stops_the_run_at_once(log_every, data, tmp_path, spoil):
    """Also at a step that is neither logged nor saved."""
    spoil(BAD)
    said = []
    message = r"loss is nan at step 3 \(lr .*nonfinite/step_3\.npz, and no checkpoint.*=skip"
    with pytest.raises(attnseg.UserError, match=message):
        train(data, tmp_path, said.append, log__every=log_every)
    assert latest(data, tmp_path).step == 2
    blocks = [line.split()[0] for line in said if line.startswith("  ")]
    assert {"backbone/stage1_embed", "backbone/stage4_norm", "head/classifier"} <= set(blocks)
    with np.load(tmp_path / "nonfinite" / "step_3.npz") as kept:
        assert kept["image"].shape == (4, 32, 32, 3) and kept["mask"][0] == 2
        assert kept["step"] == 3 and np.isnan(kept["loss"])


@pytest.mark.slow
def test_it_is_left_out_and_counted(data, tmp_path, spoil):
    """The state stays, whether a later run resumes or not; too many stop it."""
    spoil(BAD, 4)
    skip = dict(train__nonfinite="skip", train__max_nonfinite=2, checkpoint__every=1)
    scores = train(data, tmp_path / "whole", checkpoint__keep=9, **skip)
    two, four = (latest(data, tmp_path / "whole", step) for step in (2, 4))
    assert four.step == 4
    for name in ("params", "batch_stats", "ema_params"):
        for (key, value), other in zip(
            flat(getattr(two, name)).items(), flat(getattr(four, name)).values(), strict=True
        ):
            assert np.array_equal(value, other), key
    told = [r for r in records(tmp_path / "whole") if r["split"] == "train"]
    assert [r["train/nonfinite"] for r in told] == [0, 0, 1, 2, 2, 2]
    assert [r["train/loss"] is None for r in told] == [s in (3, 4) for s in range(1, 7)]

    class Killed(Exception):
        pass

    def say(line):
        if line.startswith("step 4/"):
            raise Killed

    with pytest.raises(Killed):
        train(data, tmp_path / "cut", say, **skip)
    assert train(data, tmp_path / "cut", **skip) == scores
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    whole, cut = (latest(data, tmp_path / name) for name in ("whole", "cut"))
    for name, value in flat(whole).items():
        assert np.array_equal(value, flat(cut)[name]), name

    with pytest.raises(attnseg.UserError, match=r"makes 2 steps, more than train.max_nonfinite=1"):
        train(data, tmp_path / "many", **{**skip, "train__max_nonfinite": 1})


def test_norms_by_block(data):
    """Those of a step are those of its gradient, which plain arithmetic gives too."""
    config = overnight.config("segformer", data, **SETTINGS)
    source = assemble.open_split(config, "val")
    job = assemble.build_job(config, train=source, val=source)
    state = loop.initial_state(job, loop.abstract_state(job)[1])
    batches = job.train_batches(0)
    batch = to_device(next(batches), job.evaluation.mesh)
    batches.close()
    gradients = loop.make_gradients(
        job.apply_train, job.evaluation.task, seed=job.seed, accumulate=1
    )
    grads = jax.device_get(jax.jit(gradients)(state, batch)[2])
    norms = block_norms(grads)
    for block, norm in norms.items():
        parts = [v for k, v in flat(grads).items() if k.startswith(f"{block}/")]
        expected = np.sqrt(sum(np.sum(np.float64(v) ** 2) for v in parts))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
    whole = np.sqrt(sum(float(n) ** 2 for n in norms.values()))
    step = loop.jit_train_step(job, loop.abstract_state(job)[1])
    np.testing.assert_allclose(step(state, batch)[1]["grad_norm"], whole, rtol=1e-4)
