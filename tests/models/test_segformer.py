"""SegFormer against recorded outputs of Hugging Face, NVlabs and mmsegmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from gradients import gradient_by_seed

import attnseg
from attnseg.core.tree import count, flat
from attnseg.objectives import cross_entropy
from attnseg.ops.resize import bilinear_matrix, resize_bilinear

TINY = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1), heads=(1, 2, 3, 4))
HF_RATIOS = dict(TINY, ratios=(4, 4, 3, 2))
MMSEG_HEAD = dict(width=20, stage_norm=True)

# Of variants; tests/models/test_counts.py has the named models.
MMSEG_COUNTS = {"segformer_b0": 3_753_718, "segformer_b2": 24_761_686, "segformer_b5": 82_008_406}
CLASSIFIER_COUNTS = {"mit_b0": 3_576_392, "mit_b5": 81_956_008}


def shapes(model, size=(64, 64)):
    image = jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def tiny(head=None, backbone=TINY, **kwargs):
    head = dict(width=20) if head is None else head
    return attnseg.create_model("segformer_b0", 7, backbone=backbone, head=head, **kwargs)


def test_parameter_counts_of_variants():
    for name, expected in MMSEG_COUNTS.items():
        model = attnseg.create_model(name, 150, head=dict(width=256, stage_norm=True))
        assert count(shapes(model)["params"]) == expected
    for name, expected in CLASSIFIER_COUNTS.items():
        assert count(shapes(attnseg.create_model(name, 1000))["params"]) == expected


@pytest.mark.parametrize(
    ("name", "backbone", "head"),
    [
        ("hf_segformer_tiny", HF_RATIOS, dict(width=20)),
        ("hf_segformer_tiny_epsprobe", HF_RATIOS, dict(width=20)),
        ("nvlabs_segformer_tiny", TINY, dict(width=20)),
        ("mmseg_segformer_tiny", TINY, MMSEG_HEAD),
        ("mmseg_segformer_tiny_epsprobe", TINY, MMSEG_HEAD),
    ],
)
def test_outputs_equal_recorded_ones(name, backbone, head):
    golden = Golden(name)
    model = tiny(head, backbone)
    variables, report = attnseg.load_weights(model, golden.state())
    assert not report.skipped and not report.unused

    @jax.jit
    def outputs(variables, images):
        def both(module, images):
            return module.backbone(images, train=False).maps, module(images, train=False)["logits"]

        return model.apply(variables, images, method=both)

    # The probe files are scaled so that a wrong LayerNorm epsilon shows: compare relatively.
    for case in "ab":
        maps, logits = outputs(variables, golden[f"in/{case}"])
        for stage, ours in enumerate(maps, start=1):
            theirs = golden[f"out_{case}/stage{stage}"]
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
        np.testing.assert_allclose(logits, golden[f"out_{case}/logits"], atol=1e-4)
        up = f"out_{case}/logits_up"
        if up in golden.file:
            enlarged = resize_bilinear(logits, golden[up].shape[1:3])
            np.testing.assert_allclose(enlarged, golden[up], atol=1e-4)
    # The model with the layout's fields needs no constants beside the weights.
    bare = {k: v for k, v in variables.items() if k != "constants"}
    logits = jax.jit(lambda v, x: report.model.apply(v, x, train=False)["logits"])(
        bare, golden["in/b"]
    )
    np.testing.assert_allclose(logits, golden["out_b/logits"], atol=1e-4)


def test_training_step_equals_recorded_one():
    golden = Golden("train_mmseg_segformer_tiny")
    model = tiny(dict(MMSEG_HEAD, dropout=0.0), dict(TINY, drop_path=0.0))
    variables, _ = attnseg.load_weights(model, golden.state())
    labels = jnp.asarray(golden["in/labels"], jnp.int32)

    def loss(params, images):
        outputs, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        logits = resize_bilinear(outputs["logits"], labels.shape[1:])
        total, weight = cross_entropy(logits, labels)
        return total / weight, (outputs["logits"], updates["batch_stats"])

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (logits, stats)), (grads, image_grad) = grad(variables["params"], golden["in/x"])
    np.testing.assert_allclose(value, golden["out/loss"], rtol=1e-5)
    np.testing.assert_allclose(logits, golden["out/logits"], atol=1e-4)

    def close(ours, theirs, name):
        scale = np.linalg.norm(theirs)
        # A key bias cannot change a softmax: upstream's gradient of it is rounding noise.
        assert np.linalg.norm(ours - theirs) <= 1e-3 * scale + 1e-7, name

    close(image_grad, golden["grad/x"], "image")
    # Gradients and buffers come in the source's layout: our own rules translate them.
    theirs, _ = attnseg.load_weights(model, golden.group("grad/w/"), variables=variables)
    for name, gradient in flat(grads).items():
        close(gradient, flat(theirs["params"])[name], name)
    buffers = {**golden.state(), **golden.group("buf_after/")}
    after, _ = attnseg.load_weights(model, buffers)
    for name, value in flat(stats).items():
        np.testing.assert_allclose(value, flat(after["batch_stats"])[name], atol=1e-5)


def test_composed_decoder_equals_the_plain_one():
    """Eq. 4 as the paper writes it, in float64: project, enlarge, concatenate, mix."""
    golden = Golden("hf_segformer_tiny")
    state = {k: v.astype(np.float64) for k, v in golden.state().items()}
    model = tiny(backbone=HF_RATIOS)
    variables, _ = attnseg.load_weights(model, golden.state())
    features = model.apply(
        variables, golden["in/b"], method=lambda m, x: m.backbone(x, train=False)
    )

    grid = features.maps[0].shape[1:3]
    parts = []
    for i, x in enumerate(features.maps):
        prefix = f"decode_head.linear_c.{i}.proj."
        x = np.asarray(x, np.float64) @ state[prefix + "weight"].T + state[prefix + "bias"]
        rows, columns = (bilinear_matrix(s, t) for s, t in zip(x.shape[1:3], grid, strict=True))
        parts.append(np.einsum("Hh,Ww,nhwc->nHWc", rows, columns, x))
    x = np.concatenate(parts[::-1], axis=-1) @ state["decode_head.linear_fuse.weight"][..., 0, 0].T
    norm = "decode_head.batch_norm."
    x = (x - state[norm + "running_mean"]) / np.sqrt(state[norm + "running_var"] + 1e-5)
    x = np.maximum(x * state[norm + "weight"] + state[norm + "bias"], 0.0)
    classifier = "decode_head.classifier."
    x = x @ state[classifier + "weight"][..., 0, 0].T + state[classifier + "bias"]
    logits = model.apply(variables, golden["in/b"], train=False)["logits"]
    np.testing.assert_allclose(logits, x, atol=1e-5)


def test_rectangles_and_odd_sizes():
    # 64x256 has the area of a square: a grid guessed from a token count would be wrong.
    for size in ((64, 256), (33, 95), (100, 36)):
        out = jax.eval_shape(
            lambda size=size: tiny().init_with_output(
                jax.random.key(0), jnp.zeros((1, *size, 3)), train=False
            )[0]
        )
        assert out["logits"].shape == (1, -(-size[0] // 4), -(-size[1] // 4), 7)
    with pytest.raises(attnseg.UserError, match="too small"):
        shapes(tiny(), size=(24, 64))


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    golden = Golden("hf_segformer_tiny")
    full, half = tiny(backbone=HF_RATIOS), tiny(backbone=HF_RATIOS, dtype="bfloat16")
    variables, _ = attnseg.load_weights(half, golden.state())
    assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(variables))
    logits = [
        jax.jit(lambda v, x, m=m: m.apply(v, x, train=False)["logits"])(variables, golden["in/a"])
        for m in (full, half)
    ]
    assert logits[1].dtype == jnp.float32
    error = np.abs(logits[0] - logits[1])
    assert 0 < error.mean() < 0.02 * np.std(logits[0])


def test_drop_path_and_remat():
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    plain, remat = (tiny(backbone=dict(TINY, drop_path=0.5, remat=r)) for r in (False, True))
    variables = jax.jit(lambda: plain.init(jax.random.key(0), images, train=False))()

    run = gradient_by_seed(plain, variables, images)
    remade = gradient_by_seed(remat, variables, images)
    first, other, again = (flat(g) for g in (run(0), run(1), remade(0)))
    for name in first:
        scale = np.abs(first[name]).max()
        np.testing.assert_allclose(first[name], again[name], atol=1e-4 * scale + 1e-6)
    assert any(np.abs(first[n] - other[n]).max() > 1e-3 for n in first)


def test_gradients_that_algebra_makes_zero_are_zero():
    images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    model = tiny()
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()

    @jax.jit
    @jax.grad
    def gradient(params):
        out = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )[0]
        return jnp.sum(out["logits"][..., 0] ** 2)

    gradients = flat(gradient(variables["params"]))
    zero = {name for name, g in gradients.items() if not np.any(g)}
    # Softmax removes key biases; BatchNorm removes the decoder's projection biases.
    assert zero == {
        n
        for n in gradients
        if n.endswith("attention/key/bias") or (n.startswith("head/stage") and n.endswith("bias"))
    }


def test_unknown_names_are_answered():
    with pytest.raises(attnseg.UserError, match='Did you mean "segformer_b0"'):
        attnseg.create_model("segfromer_b0", 2)
    with pytest.raises(attnseg.UserError, match='Did you mean "depths"'):
        attnseg.create_model("segformer_b0", 2, backbone=dict(depth=(1, 1, 1, 1)))
    with pytest.raises(attnseg.UserError, match="unknown dtype"):
        attnseg.create_model("segformer_b0", 2, dtype="float16")
    with pytest.raises(attnseg.UserError, match="heads must divide"):
        attnseg.create_model("segformer_b0", 2, backbone=dict(heads=(1, 2, 7, 8)))
    assert attnseg.list_models("segformer*") == [f"segformer_b{i}" for i in range(6)]
    mit_segformer = attnseg.create_model("mit_b0+segformer", 150)
    assert count(shapes(mit_segformer)["params"]) == 3_752_694
