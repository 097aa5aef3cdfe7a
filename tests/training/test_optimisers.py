"""Every optimizer and schedule step by step against its formula in float64; layer-wise decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnseg
from attnseg.core.tree import flat
from attnseg.training.layer_decay import layer_factors
from attnseg.training.optim import Rule, make_optimizer
from attnseg.training.schedule import make_schedule

LR, DECAY = 0.1, 0.3


def run(name, steps=4, **settings):
    """Parameters after each step, ours, and the gradients they were given."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=3), rng.normal(size=(steps, 3))
    params = {"a": jnp.float32(start)}
    tx = make_optimizer(
        name,
        schedule=make_schedule("constant", lr=LR, steps=steps),
        rules=[Rule(".*")],
        params=params,
        weight_decay=DECAY,
        **settings,
    )
    state, seen = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update({"a": jnp.float32(gradient)}, state, params)
        params = {"a": params["a"] + updates["a"]}
        seen.append(params["a"])
    return start, gradients, np.array(seen)


def adam(start, gradients, coupled):
    p, m, v, seen = start, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, start=1):
        g = gradient + coupled * DECAY * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - LR * (step + (not coupled) * DECAY * p)
        seen.append(p)
    return seen


def sgd(start, gradients, momentum, nesterov):
    p, velocity, seen = start, 0.0, []
    for gradient in gradients:
        g = gradient + DECAY * p
        velocity = momentum * velocity + g
        p = p - LR * (g + momentum * velocity if nesterov else velocity)
        seen.append(p)
    return seen


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_couples_its_decay_and_adamw_does_not(name):
    start, gradients, ours = run(name)
    np.testing.assert_allclose(ours, adam(start, gradients, name == "adam"), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_sgd_is_torchs(momentum, nesterov):
    start, gradients, ours = run("sgd", momentum=momentum, nesterov=nesterov)
    np.testing.assert_allclose(
        ours, sgd(start, gradients, momentum, nesterov), rtol=1e-4, atol=2e-6
    )


def test_step_schedule_is_steplr():
    schedule = jax.jit(make_schedule("step", lr=0.1, steps=350, every=100, gamma=0.5))
    for step, drops in ((0, 0), (99, 0), (100, 1), (199, 1), (200, 2), (399, 3), (4000, 40)):
        np.testing.assert_allclose(schedule(step), 0.1 * 0.5**drops, rtol=1e-6)
    # Every drop comes at its own step, where a float32 quotient would fall short of some.
    third = jax.jit(jax.vmap(make_schedule("step", lr=1.0, steps=1, every=333, gamma=0.9)))
    steps = np.arange(1, 300) * 333
    np.testing.assert_allclose(third(steps), 0.9 ** (steps // 333), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(third(steps - 1), 0.9 ** ((steps - 1) // 333), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["poly", "cosine", "step", "constant"])
def test_every_schedule_warms_up_and_ends_where_it_should(name):
    settings = dict(power=0.9, end_lr=0.02, every=30, gamma=0.2)
    schedule = make_schedule(name, lr=0.5, steps=100, warmup_steps=8, warmup_ratio=0.1, **settings)
    for step in (0, 3, 8, 30, 59, 99, 100):
        t = step / 100
        curve = {
            "poly": (1 - t) ** 0.9,
            "cosine": (1 + np.cos(np.pi * t)) / 2,
            "step": 0.2 ** (step // 30),
            "constant": 1.0,
        }[name]
        warm = 1 - (1 - min(step / 8, 1)) * 0.9
        np.testing.assert_allclose(schedule(step), (0.02 + 0.48 * curve) * warm, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "blocks", "parts"),
    [
        ("segformer_b0", 8, {"stage1_embed": 9, "stage3_embed": 4, "stage3_norm": 3}),
        ("segnext_t", 13, {"stage1_embed": 14, "stage2_embed": 10, "stage4_norm": 1}),
        ("swin_t", 12, {"embed": 13, "stage2_merge": 10, "stage4_norm": 1}),
        ("conv2former_n", 14, {"stem": 15, "stage2_down": 12}),
        ("ccnet_r50", 16, {"stem": 17}),
        ("botnet18", 8, {"stem": 9}),
    ],
)
def test_layers_decay_from_the_head_to_the_stem(model, blocks, parts):
    model = attnseg.create_model(model, 3)
    image = jnp.zeros((1, 64, 64, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))["params"]
    factors = flat(layer_factors(params, 0.5))
    found = {}
    for name, factor in factors.items():
        part = name.split("/")[1]
        depth = round(-np.log2(factor))
        if not name.startswith("backbone/"):
            assert depth == 0, name
        else:
            assert 1 <= depth <= blocks + 1 and found.setdefault(part, depth) == depth, name
    for part, depth in parts.items():
        assert found[part] == depth, part
    # Blocks in the order the image meets them, one step each.
    numbers = {
        tuple(int(c) for c in p[5:].split("_block")): d for p, d in found.items() if "_block" in p
    }
    assert [numbers[key] for key in sorted(numbers)] == list(range(blocks, 0, -1))


def test_layer_decay_multiplies_the_rate_of_the_rules():
    params = {
        "backbone": {"stem": jnp.ones(2), "stage1_block1": {"a": jnp.ones(2), "norm": jnp.ones(2)}},
        "head": jnp.ones(2),
    }
    rules = [Rule("^head", 10.0, False), Rule("norm", 0.0), Rule(".*", 1.0, False)]
    tx = make_optimizer(
        "sgd",
        schedule=make_schedule("constant", lr=0.1, steps=1),
        rules=rules,
        params=params,
        weight_decay=0.0,
        layer_decay=0.5,
    )
    ones = jax.tree_util.tree_map(jnp.ones_like, params)
    updates = flat(tx.update(ones, tx.init(params), params)[0])
    assert {k: float(v[0]) for k, v in updates.items()} == pytest.approx(
        {
            "backbone/stem": -0.1 / 4,
            "backbone/stage1_block1/a": -0.1 / 2,
            "backbone/stage1_block1/norm": 0.0,
            "head": -1.0,
        }
    )
    with pytest.raises(attnseg.UserError, match="no parameter is named backbone/stageI_blockJ"):
        layer_factors({"head": jnp.ones(1)}, 0.5)
    with pytest.raises(attnseg.UserError, match="optim.layer_decay=0 is not a factor"):
        layer_factors(params, 0)
