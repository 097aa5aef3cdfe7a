"""The train step: the same on one device, on four, in parts, and sharded."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from attnseg.core.mesh import make_mesh, to_global
from attnseg.core.tree import flat
from attnseg.objectives import SegmentationLoss
from attnseg.ops.resize import resize_bilinear
from attnseg.recipe import assemble
from attnseg.training import loop
from attnseg.training.evaluate import jit_eval_step, to_device


@pytest.fixture(scope="module")
def source():
    return assemble.open_split(tiny.config(), "train")


def on(mesh, job):
    """The job on other devices."""
    return dataclasses.replace(job, evaluation=dataclasses.replace(job.evaluation, mesh=mesh))


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def train(source, steps, mesh, **changes):
    """Losses and parameters after some steps."""
    config = tiny.config(**changes)
    job = on(mesh, assemble.build_job(config, train=source, val=source))
    shardings = loop.abstract_state(job)[1]
    state = loop.initial_state(job, shardings)
    step = loop.jit_train_step(job, shardings)
    batches, losses = job.train_batches(0), []
    for _ in range(steps):
        state, metrics = step(state, to_device(next(batches), mesh))
        losses.append(float(metrics["loss"]))
    batches.close()
    return losses, jax.device_get(state), state


def assert_close(ours, theirs, tolerance):
    """Relative to the size of each array."""
    for name, value in flat(ours).items():
        other = flat(theirs)[name]
        error = np.linalg.norm(value - other)
        assert error <= tolerance * max(np.linalg.norm(other), 1e-12), name


def test_one_and_four_devices_agree(source):
    """Loss, parameters, statistics and averages after 20 steps; drop path and dropout on."""
    one, four = one_device(), make_mesh(data=4)
    changes = dict(model__backbone__drop_path=0.2, train__ema=0.9)
    losses, state, _ = train(source, 20, one, **changes)
    others, other, _ = train(source, 20, four, **changes)
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    assert_close(other.params, state.params, 1e-5)
    assert_close(other.batch_stats, state.batch_stats, 1e-5)
    assert_close(other.ema_params, state.ema_params, 1e-5)


@pytest.mark.slow
def test_losses_of_regions_and_hard_pixels_know_no_devices(source):
    """OHEM, Dice and Lovasz look at all pixels of the batch, wherever they lie."""
    changes = dict(
        loss__name="ohem",
        loss__ohem_keep=64,
        loss__ohem_threshold=0.2,
        loss__dice_weight=0.7,
        loss__lovasz_weight=0.9,
    )
    losses, state, _ = train(source, 4, one_device(), **changes)
    others, other, _ = train(source, 4, make_mesh(data=4), **changes)
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    assert_close(other.params, state.params, 1e-5)


@pytest.mark.parametrize("name", ["ohem", "dice", "lovasz"])
def test_a_loss_and_its_gradient_are_the_same_on_four_devices(name):
    """With rows that differ in what is valid: no device's share is like another's."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, (8, 12, 10)).astype(np.int32)
    labels[rng.random(labels.shape) < np.linspace(0, 0.9, 8)[:, None, None]] = 255
    batch = {
        "logits": rng.normal(0, 2, (8, 12, 10, 5)).astype(np.float32),
        "labels": labels,
        "mask": np.float32([1, 1, 1, 1, 1, 1, 1, 0]),
    }
    loss = SegmentationLoss(name, ohem_threshold=0.05, ohem_keep=30)

    def mean(logits, labels, mask):
        total, weight = loss(logits, labels, mask)
        return total / weight

    results = []
    for mesh in (one_device(), make_mesh(data=4)):
        there = to_global(batch, mesh)
        results.append(jax.jit(jax.value_and_grad(mean))(*there.values()))
    (value, grad), (other_value, other_grad) = jax.device_get(results)
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    assert np.abs(grad).max() > 1e-4
    np.testing.assert_allclose(other_grad, grad, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_parameters_split_over_devices_give_the_same(source):
    changes = dict(model__backbone__widths=(32, 64, 160, 256))
    losses, state, _ = train(source, 3, one_device(), **changes)
    others, other, live = train(source, 3, make_mesh(data=2, fsdp=2), **changes)
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    assert_close(other.params, state.params, 5e-4)
    split = [x for x in jax.tree_util.tree_leaves(live.params) if "fsdp" in str(x.sharding.spec)]
    assert split and all(x.addressable_shards[0].data.size * 2 == x.size for x in split)


def test_accumulation_is_one_batch(source):
    """Without randomness and in parts whose BatchNorm statistics are the same."""
    config = tiny.config(
        data__photometric=False, model__head__dropout=0.0, optim__name="sgd", optim__lr=0.1
    )
    job = on(one_device(), assemble.build_job(config, train=source, val=source))
    batch = first_batch(job)
    twice = {k: np.repeat(v[:4], 2, axis=0) for k, v in batch.items()}  # parts take every 2nd row
    results = []
    for accumulate in (1, 2):
        part = dataclasses.replace(job, accumulate=accumulate)
        shardings = loop.abstract_state(part)[1]
        state = loop.initial_state(part, shardings)
        step = loop.jit_train_step(part, shardings)
        state, metrics = step(state, to_device(twice, job.evaluation.mesh))
        results.append((metrics["loss"], metrics["grad_norm"], jax.device_get(state.params)))
    np.testing.assert_allclose(results[0][:2], results[1][:2], rtol=1e-4)
    assert_close(results[0][2], results[1][2], 1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_of_ignored_pixels_changes_nothing(source, accumulate):
    job = on(one_device(), assemble.build_job(tiny.config(), train=source, val=source))
    state = loop.initial_state(job, loop.abstract_state(job)[1])
    batch = first_batch(job)
    batch["label"] = np.full_like(batch["label"], 255)
    gradients = loop.make_gradients(
        job.apply_train, job.evaluation.task, seed=job.seed, accumulate=accumulate
    )
    loss, _, grads = jax.jit(gradients)(state, to_device(batch, job.evaluation.mesh))
    assert loss == 0 and not any(np.any(g) for g in jax.tree_util.tree_leaves(grads))


def first_batch(job):
    batches = job.train_batches(0)
    batch = next(batches)
    batches.close()
    return batch


def test_ignored_and_padded_pixels_do_not_count(source):
    config = tiny.config(data__photometric=False)
    job = on(one_device(), assemble.build_job(config, train=source, val=source))
    batch, eval_step = first_batch(job), jit_eval_step(job.evaluation)
    state = loop.initial_state(job, loop.abstract_state(job)[1])

    def counts(**changes):
        on_device = to_device(batch | changes, job.evaluation.mesh)
        return jax.device_get(eval_step(state.params, state.batch_stats, on_device))

    full, mask = counts(), np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    labels = np.where(mask[:, None, None] > 0, batch["label"], 255).astype(np.int32)
    by_mask, by_label = counts(mask=mask), counts(label=labels)
    assert by_mask["weight"] == by_label["weight"] < full["weight"]
    np.testing.assert_array_equal(by_mask["confusion"], by_label["confusion"])
    np.testing.assert_allclose(by_mask["loss_sum"], by_label["loss_sum"], rtol=1e-6)


def test_moving_average(source):
    """e <- d e + (1 - d) p with d = min(decay, (1 + t) / (10 + t)), step by step."""
    config = tiny.config(train__ema=0.15)
    job = on(one_device(), assemble.build_job(config, train=source, val=source))
    shardings = loop.abstract_state(job)[1]
    state = loop.initial_state(job, shardings)
    step, batch = loop.jit_train_step(job, shardings), first_batch(job)
    average = np.asarray(state.params["head"]["classifier"]["kernel"], np.float64)
    for t in range(3):
        state, _ = step(state, to_device(batch, job.evaluation.mesh))
        decay = min(0.15, (1 + t) / (10 + t))
        kernel = np.asarray(state.params["head"]["classifier"]["kernel"], np.float64)
        average = decay * average + (1 - decay) * kernel
    ours = state.eval_params["head"]["classifier"]["kernel"]
    np.testing.assert_allclose(ours, average, rtol=1e-5)


def test_the_loss_is_the_mean_over_valid_pixels(source):
    """Of the whole batch at label resolution, against numpy in float64."""
    config = tiny.config(data__photometric=False, model__head__dropout=0.0)
    job = on(one_device(), assemble.build_job(config, train=source, val=source))
    batch, task = first_batch(job), job.evaluation.task
    batch["label"][:3] = 255  # examples differ in how much they count
    shardings = loop.abstract_state(job)[1]
    state = loop.initial_state(job, shardings)
    outputs, _ = jax.jit(job.apply_train)(
        state.params, state.batch_stats, task.inputs(batch["image"]), jax.random.key(0)
    )
    logits = np.float64(resize_bilinear(outputs["logits"], batch["label"].shape[1:]))
    logits -= logits.max(-1, keepdims=True)
    log_share = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = batch["label"] != 255
    expected = -np.mean(log_share[valid, batch["label"][valid]])
    step = loop.jit_train_step(job, shardings)
    _, metrics = step(state, to_device(batch, job.evaluation.mesh))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
