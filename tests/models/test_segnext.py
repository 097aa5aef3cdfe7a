"""SegNeXt against recorded outputs of mmsegmentation, of its authors' code and of the post's."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

import attnseg
from attnseg.core.errors import UserError
from attnseg.core.tree import count, flat, nested
from attnseg.core.types import Features
from attnseg.layers.hamburger import Hamburger
from attnseg.models.backbones.mscan import MSCAN, DownConv
from attnseg.models.heads.light_ham import LightHamHead, Squeeze
from attnseg.ops.resize import bilinear_matrix, resize_bilinear
from attnseg.weights import segnext
from attnseg.weights.load import LAYOUTS
from attnseg.weights.rules import recognise, translate, untranslate

# FACTS, section 2: encoder; encoder-decoder at 150, 19 and 171 classes; classifier of 1000.
ATOL = 1e-5
TINY = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1))
TINY_HEAD = dict(num_classes=7, width=32, rank=5, groups=8)


def shapes(module, x):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))


@functools.cache
def encoder(size):
    """Variables of a full-size encoder without values, and its features."""
    model = attnseg.create_model(f"segnext_{size}", 2).backbone
    features, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    return variables, jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape), features)


def head_shapes(size, classes):
    return shapes(attnseg.create_model(f"segnext_{size}", classes).head, encoder(size)[1])


def test_fields_that_no_count_shows():
    models = [attnseg.create_model(f"segnext_{size}", 2) for size in "tsbl"]
    assert [m.head.rank for m in models] == [16, 16, 64, 64]
    assert [m.backbone.drop_path for m in models] == [0.1, 0.1, 0.1, 0.3]


def load(state):
    """Our variables of a source's state dict."""
    values, unknown = translate(state, recognise(state, LAYOUTS))
    assert not unknown
    return nested({k: jnp.asarray(v) for k, v in values.items()})


def images(golden, case):
    return jnp.asarray(golden[f"in/{case}"])


# One compilation for all recordings: they share the encoder's sizes.
stages = jax.jit(lambda variables, x: MSCAN(**TINY).apply(variables, x, train=False))


def part_of(variables, part):
    return {k: v[part] for k, v in variables.items() if part in v}


def stages_of(golden, case):
    """The recorded features."""
    arrays = tuple(jnp.asarray(golden[f"out_{case}/stage{i}"]) for i in range(1, 5))
    return Features(arrays, (4, 8, 16, 32), TINY["widths"])


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("official_mscan_tiny_epsprobe", [segnext.OFFICIAL]),
        ("post_mscan_tiny", [segnext.POST]),
        ("mmseg_segnext_tiny", [segnext.MMSEG, segnext.LIGHT_HAM]),
    ],
)
def test_stages_equal_recorded_ones(name, layouts):
    golden = Golden(name)
    assert recognise(golden.state(), LAYOUTS) == layouts
    variables = part_of(load(golden.state()), "backbone")
    expected = shapes(MSCAN(**TINY), images(golden, "a"))
    assert {k: v.shape for k, v in flat(variables).items()} == {
        k: v.shape for k, v in flat(expected).items()
    }
    for case in "ab":
        for stage, ours in enumerate(stages(variables, images(golden, case)).maps, start=1):
            theirs = golden[f"out_{case}/stage{stage}"]
            np.testing.assert_allclose(ours, theirs, atol=ATOL, err_msg=f"stage {stage}")


@functools.cache
def recorded():
    """The recorded SegNeXt's variables, with the recorded bases."""
    golden = Golden("mmseg_segnext_tiny")
    head = {k: v for k, v in TINY_HEAD.items() if k != "num_classes"}
    model = attnseg.create_model("segnext_t", 7, backbone=TINY, head=head)
    variables, report = attnseg.load_weights(model, golden.state())
    assert not report.skipped and not report.unused
    constants = {"head": {"hamburger": {"bases": jnp.asarray(golden["in/bases"])}}}
    return golden, {**variables, "constants": constants}


def test_decoder_equals_recorded_one():
    golden, variables = recorded()
    head = LightHamHead(**TINY_HEAD)

    def parts(module, method):
        return method == "__call__" and isinstance(module, Squeeze | Hamburger)

    @jax.jit
    def run(variables, features):
        logits, captured = head.apply(
            variables, features, train=False, capture_intermediates=parts, mutable="intermediates"
        )
        captured = captured["intermediates"]
        return {
            "squeeze": captured["squeeze"]["__call__"][0],
            "hamburger": captured["hamburger"]["__call__"][0],
            "logits": logits,
        }

    for case in "ab":
        ours = run(part_of(variables, "head"), stages_of(golden, case))
        ours["logits_up"] = resize_bilinear(ours["logits"], images(golden, case).shape[1:3])
        for name, value in ours.items():
            np.testing.assert_allclose(value, golden[f"out_{case}/{name}"], atol=ATOL, err_msg=name)


def test_hamburger_equals_recorded_one():
    golden = Golden("hamburger_block")
    state = {f"decode_head.hamburger.{k}": v for k, v in golden.state().items()}
    params = load(state)["params"]["head"]["hamburger"]
    ham = Hamburger(16, rank=4, groups=4)
    variables = {"params": params, "constants": {"bases": jnp.asarray(golden["in/bases"])}}
    x = jnp.asarray(golden["in/x"])
    out = jax.jit(lambda v, x: ham.apply(v, x, train=False))(variables, x)
    np.testing.assert_allclose(out, golden["out/y"], atol=ATOL)


def maps(n=2):
    """Features of three grids, of which the coarser do not divide the finest."""
    rng = np.random.default_rng(0)
    sizes = ((n, 9, 13, 6), (n, 5, 7, 10), (n, 3, 4, 14))
    arrays = tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes)
    return Features(arrays, (8, 16, 32), (6, 10, 14))


def drawn(module, x):
    """Variables with values, without compiling an initialiser."""
    rng = np.random.default_rng(1)
    return jax.tree_util.tree_map(
        lambda v: jnp.asarray(0.3 * rng.normal(size=v.shape) + 0.3, v.dtype), shapes(module, x)
    )


def test_squeeze_equals_the_plain_one():
    """Enlarge, concatenate, mix, normalise: in float64."""
    features = maps()
    squeeze = Squeeze(8, groups=2)
    init = jax.eval_shape(lambda: squeeze.init(jax.random.key(0), features.maps))
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(30, 8)), jnp.float32)
    scale, bias = jnp.arange(1.0, 9.0), jnp.arange(8.0) - 4.0
    params = {"kernel": kernel, "norm": {"scale": scale, "bias": bias}}
    assert flat(init["params"]).keys() == flat(params).keys()
    out = jax.jit(lambda p, m: squeeze.apply({"params": p}, m))(params, features.maps)
    grid = features.maps[0].shape[1:3]
    enlarged = [
        np.einsum(
            "Hh,Ww,nhwc->nHWc",
            *(bilinear_matrix(s, t) for s, t in zip(x.shape[1:3], grid, strict=True)),
            np.asarray(x, np.float64),
        )
        for x in features.maps
    ]
    x = np.concatenate(enlarged, axis=-1) @ np.float64(kernel)
    x = x.reshape(*x.shape[:3], 2, 4)
    mean = x.mean(axis=(1, 2, 4), keepdims=True)
    var = x.var(axis=(1, 2, 4), keepdims=True)
    x = ((x - mean) / np.sqrt(var + 1e-5)).reshape(out.shape)
    np.testing.assert_allclose(out, np.maximum(x * scale + bias, 0.0), atol=3e-5)


def test_evaluation_repeats_and_training_draws():
    features = maps()
    head, one_step = (
        LightHamHead(5, width=16, rank=4, groups=4, dropout=0.0, gradient=g)
        for g in ("full", "one_step")
    )
    variables = drawn(head, features)

    def run(seed, head=head):
        def loss(params, seed):
            rngs = {"dropout": jax.random.key(seed)}
            logits = head.apply({"params": params}, features, train=True, rngs=rngs)
            return jnp.sum(logits**2), logits

        gradient, logits = jax.grad(loss, has_aux=True)(variables["params"], seed)
        evaluated = head.apply(variables, features, train=False)
        return evaluated, logits, gradient["hamburger"]["ham_in"]["kernel"]

    full, short = jax.jit(run), jax.jit(functools.partial(run, head=one_step))
    first, again, other, shortened = full(0), full(0), full(1), short(0)
    np.testing.assert_array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[1] - other[1]).max() > 1e-3
    assert np.abs(first[2] - shortened[2]).max() > 1e-3 * np.abs(first[2]).max()
    np.testing.assert_allclose(first[1], shortened[1], atol=1e-5)
    # One image gives one result, whatever it is evaluated together with.
    alone = jax.tree_util.tree_map(lambda x: x[1:], features)
    alone = jax.jit(lambda v: head.apply(v, alone, train=False))(variables)
    np.testing.assert_allclose(first[0][1:], alone, atol=1e-5)


def test_bases_of_training_differ_between_examples():
    x = jnp.asarray(np.random.default_rng(0).random((1, 4, 5, 8)), jnp.float32)
    ham = Hamburger(8, rank=3, groups=2)
    variables = drawn(ham, x)
    twice = jnp.concatenate([x, x])
    out = jax.jit(lambda v, x: ham.apply(v, x, train=True, rngs={"dropout": jax.random.key(1)}))(
        variables, twice
    )
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    golden, variables = recorded()
    encoder = MSCAN(widths=(8,), depths=(1,), ratios=(8,), dtype=jnp.bfloat16)
    head = LightHamHead(**TINY_HEAD, dtype=jnp.bfloat16)
    x = images(golden, "b")

    @jax.jit
    def run(variables, x, features):
        stage = encoder.apply(part_of(variables, "backbone"), x, train=False).maps[0]
        return stage, head.apply(part_of(variables, "head"), features, train=False)

    stage, logits = run(variables, x, stages_of(golden, "b"))
    assert stage.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    for ours, name in ((stage, "stage1"), (logits, "logits")):
        theirs = golden[f"out_b/{name}"]
        assert 0 < np.abs(ours - theirs).mean() < 0.02 * np.std(theirs), name
    for module, inputs in ((encoder, x), (head, stages_of(golden, "b"))):
        leaves = jax.tree_util.tree_leaves(shapes(module, inputs))
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_drop_path_and_remat():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    fields = dict(widths=(8,), depths=(2,), ratios=(2,), drop_path=0.5)
    plain, remat = (MSCAN(**fields, remat=r) for r in (False, True))
    variables = drawn(plain, x)

    def run(params, seed, model=plain):
        return model.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"],
        )

    def kept(model):
        """Sizes of what the backward pass needs."""
        backward = jax.eval_shape(
            lambda p: jax.vjp(lambda p: run(p, 0, model)[0].maps, p)[1], variables["params"]
        )
        return count(backward)

    draw, again = jax.jit(run), jax.jit(functools.partial(run, model=remat))
    params = variables["params"]
    first, other, same = draw(params, 0), draw(params, 1), again(params, 0)
    for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (first, same)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(first[0].maps[0] - other[0].maps[0]).max() > 1e-3
    assert kept(remat) < kept(plain) / 2


def test_bias_before_batch_norm_moves_only_the_running_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 12, 3)), jnp.float32)
    down = DownConv(4)
    variables = drawn(down, x)

    @jax.jit
    def train(bias):
        def loss(bias):
            params = {**variables["params"], "bias": bias}
            out, updates = down.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out**3), updates["batch_stats"]["norm"]["mean"]

        return jax.grad(loss, has_aux=True)(bias)

    (zero, mean), (_, moved) = train(jnp.zeros(4)), train(jnp.arange(4.0))
    assert not np.any(zero)
    np.testing.assert_allclose(moved - mean, 0.1 * np.arange(4.0), atol=1e-6)


KEYS = json.loads((Path(__file__).parents[1] / "weights" / "segnext_keys.json").read_text())
LAYOUTS_OF = {
    "mmseg": [segnext.MMSEG, segnext.LIGHT_HAM],
    "official": [segnext.OFFICIAL, segnext.LIGHT_HAM],
    "paddleseg": [segnext.PADDLESEG, segnext.PADDLESEG_LIGHT_HAM],
    "post": [segnext.POST],
}


@pytest.mark.parametrize("source", KEYS)
def test_every_key_of_the_published_layouts_has_a_place(source):
    """Names and shapes of full-size checkpoints, without their values."""
    state = {k: np.broadcast_to(np.float32(0), s) for k, s in KEYS[source]["keys"].items()}
    layouts = recognise(state, LAYOUTS)
    assert layouts == LAYOUTS_OF[source.split("_")[0]]
    values, unknown = translate(state, layouts)
    assert not unknown
    size = KEYS[source]["model"][-1]
    expected = {f"{k}/backbone": v for k, v in encoder(size)[0].items()}
    if len(layouts) == 2:
        expected["params/head"] = head_shapes(size, 150)["params"]
    assert {k: v.shape for k, v in values.items()} == {
        k: v.shape for k, v in flat(expected).items()
    }


def test_classifier_weights():
    state = Golden("official_mscan_tiny_epsprobe").state()
    weight = np.arange(96.0, dtype=np.float32).reshape(3, 32)
    state |= {"head.weight": weight, "head.bias": np.zeros(3, np.float32)}
    assert recognise(state, LAYOUTS) == [segnext.OFFICIAL, segnext.CLASSIFIER]
    np.testing.assert_array_equal(load(state)["params"]["head"]["classifier"]["kernel"], weight.T)


def paddleseg_state():
    """Values under PaddleSeg's names."""
    keys = KEYS["paddleseg_segnext_t_150"]["keys"]
    rng = np.random.default_rng(0)
    small = {k: s for k, s in keys.items() if "block" not in k or "block1.0" in k}
    return {k: rng.random(s, np.float32) for k, s in small.items()}


@pytest.mark.parametrize(
    "source", ["mmseg_segnext_tiny", "official_mscan_tiny_epsprobe", "post_mscan_tiny", "paddleseg"]
)
def test_weights_go_there_and_back(source):
    state = paddleseg_state() if source == "paddleseg" else Golden(source).state()
    layouts = recognise(state, LAYOUTS)
    back, unnamed = untranslate(translate(state, layouts)[0], layouts)
    assert not unnamed
    prefixed = {k if k in state else k.removeprefix("backbone."): v for k, v in back.items()}
    kept = {k for k in state if not k.endswith("num_batches_tracked")}
    assert prefixed.keys() == kept
    for name in kept:
        np.testing.assert_array_equal(prefixed[name], state[name])


def test_bad_fields_are_refused():
    with pytest.raises(UserError, match="one value per stage"):
        MSCAN(widths=(8, 16), depths=(1,))
    with pytest.raises(UserError, match="must be even"):
        MSCAN(widths=(7, 8, 8, 8), depths=(1, 1, 1, 1))
    with pytest.raises(UserError, match="cannot be split into 32 groups"):
        LightHamHead(2, width=48)
    with pytest.raises(UserError, match="none of"):
        Hamburger(8, gradient="half")
    with pytest.raises(UserError, match="at least 1"):
        Hamburger(8, eval_steps=0)
    two = maps()
    two = Features(two.maps[:2], two.strides[:2], two.widths[:2])
    with pytest.raises(UserError, match="at least 3 stages"):
        shapes(LightHamHead(2), two)
