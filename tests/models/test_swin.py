"""Swin against recorded outputs of timm, and its attention against the definition."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from gradients import gradient_by_seed

from attnseg.core.errors import UserError
from attnseg.core.tree import flat, map_with_names, nested
from attnseg.layers.window_attention import WindowAttention
from attnseg.models.assembled import Classifier
from attnseg.models.backbones.swin import SIZES, Swin
from attnseg.models.heads.linear import LinearHead
from attnseg.ops.patches import merge_patches
from attnseg.weights import swin as tables
from attnseg.weights.rules import recognise, translate, untranslate

KEYS = json.loads((Path(__file__).parents[1] / "weights/swin_keys.json").read_text())
WINDOWS = ((4, 6), (4, 6), (4, 6), (2, 3))
TINY = dict(widths=(12, 24, 48, 96), depths=(2,) * 4, heads=(1, 2, 3, 4), windows=WINDOWS)
SMALL = dict(widths=(8, 8), depths=(2, 2), heads=(2, 2), windows=((2, 3), 3), ratio=2)


def classifier(classes, fields, dtype=None):
    return Classifier(Swin(**fields, dtype=dtype), LinearHead(classes, dtype=dtype))


def shapes(model, size=(32, 32)):
    image = jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def drawn(model):
    """Random variables, without compiling the initialisers."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return np.abs(values) + 0.5 if name.endswith("/scale") else 0.3 * values

    return map_with_names(draw, shapes(model))


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, variables, images):
    """Maps of the backbone and logits; compiled once for equal models and shapes."""

    def both(module, images):
        features = module.backbone(images, train=False)
        return features.maps, module.head(features, train=False)

    return model.apply(variables, images, method=both)


def load(state):
    found = recognise(state, tables.LAYOUTS)
    values, unknown = translate(state, found)
    assert not unknown
    return found, nested(values)


def test_outputs_equal_recorded_ones():
    golden = Golden("timm_swin_tiny_custom")
    _, variables = load(golden.state())
    model = classifier(11, TINY)
    maps, logits = outputs(model, variables, golden["in/a"])
    for stage in (1, 2, 3):  # recorded as they stand before norms, as ours are handed out
        theirs = golden.file[f"out_a/stage{stage}"]
        np.testing.assert_allclose(maps[stage - 1], theirs, atol=1e-5)
    norm = variables["params"]["backbone"]["stage4_norm"]
    x = golden.file["out_a/stage4"].astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(maps[3], x * norm["scale"] + norm["bias"], atol=1e-5)
    np.testing.assert_allclose(logits, golden["out_a/logits"], atol=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(9, 14), (8, 12), (3, 13), (3, 5), (4, 6)])
def test_attention_equals_its_definition(grid, shifted):
    """Token by token in float64: who shares a window once its borders are moved by half."""
    heads, window, c = 2, (4, 6), 8
    module = WindowAttention(heads, window, shifted)
    x = np.random.default_rng(1).standard_normal((1, *grid, c))
    variables = drawn_attention(module, x)
    p = {k: np.asarray(v, np.float64) for k, v in flat(variables["params"]).items()}
    side = [min(a, b) for a, b in zip(window, grid, strict=True)]
    shift = [s // 2 if shifted and size > s else 0 for s, size in zip(side, grid, strict=True)]
    padded = [-(-size // s) * s for size, s in zip(grid, side, strict=True)]
    tokens = np.zeros((*padded, c))
    tokens[: grid[0], : grid[1]] = x[0]
    tokens = tokens.reshape(-1, c)
    place = np.indices(padded).reshape(2, -1)
    home = [(q - s) // a for q, s, a in zip(place, shift, side, strict=True)]
    together = np.all([h[:, None] == h[None] for h in home], axis=0)
    offset = [np.clip(q[:, None] - q[None], 1 - a, a - 1) for q, a in zip(place, side, strict=True)]
    table = p["relative_bias"].reshape(2 * window[0] - 1, 2 * window[1] - 1, heads)
    bias = table[offset[0] + window[0] - 1, offset[1] + window[1] - 1]
    query, key, value = (
        (tokens @ p[f"{n}/kernel"] + p[f"{n}/bias"]).reshape(len(tokens), heads, -1)
        for n in ("query", "key", "value")
    )
    logits = np.einsum("lmd,smd->lsm", query, key) / np.sqrt(c / heads) + bias
    weights = np.exp(logits) * together[:, :, None]
    weights /= weights.sum(1, keepdims=True)
    out = np.einsum("lsm,smd->lmd", weights, value).reshape(*padded, c)[: grid[0], : grid[1]]
    ours = jax.jit(module.apply)(variables, jnp.asarray(x, jnp.float32))[0]
    np.testing.assert_allclose(ours, out @ p["out/kernel"] + p["out/bias"], atol=2e-6)


def drawn_attention(module, x):
    rng = np.random.default_rng(0)
    leaves = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))
    return jax.tree_util.tree_map(lambda v: 0.3 * rng.standard_normal(v.shape, np.float32), leaves)


def microsoft(state):
    """timm's names, turned into those of the authors."""
    renamed = {}
    for key, value in state.items():
        for s in (1, 2, 3):
            key = key.replace(f"layers.{s}.downsample", f"layers.{s - 1}.downsample")
        renamed[key.replace("head.fc.", "head.")] = value
    index = "layers.0.blocks.1.attn.relative_position_index"
    return {**renamed, index: np.zeros((24, 24), int), "layers.0.blocks.1.attn_mask": np.zeros(3)}


def mmseg(state):
    """The authors' names, turned into those of mmsegmentation by its converter's table."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("head"):
            continue
        if "downsample" in key:  # one pixel after the other -> one channel after the other
            pixels = value.reshape(*value.shape[:-1], 2, 2, -1)  # column, row, channel
            value = np.moveaxis(pixels, -1, -3).swapaxes(-1, -2).reshape(value.shape)
        key = key.replace("attn.", "attn.w_msa.").replace("layers.", "stages.", 1)
        key = key.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        renamed[key.replace("patch_embed.proj", "patch_embed.projection")] = value
    return renamed


def dense(state):
    """A classifier's entries as those of a segmenter: a norm behind each stage, a prefix."""
    renamed = {k.replace("norm.", "norm3.") if k.startswith("norm.") else k: v
               for k, v in state.items() if not k.startswith("head")}  # fmt: skip
    for s, width in enumerate((12, 24, 48)):
        renamed |= {f"norm{s}.weight": np.full(width, 2.0), f"norm{s}.bias": np.full(width, s)}
    return {f"backbone.{k}": v for k, v in renamed.items()}


def test_every_source_gives_the_same_variables():
    state = Golden("timm_swin_tiny_custom").state()
    expected = flat(load(state)[1])
    theirs = microsoft(state)
    for source, name, norms in (
        (theirs, "Microsoft Swin", "last"),
        (dense(theirs), "Microsoft Swin for dense tasks", "all"),
        (mmseg(theirs), "mmsegmentation Swin, pretrained", "last"),
        (dense(mmseg(theirs)), "mmsegmentation Swin", "all"),
    ):
        found, variables = load(source)
        assert found[0].name == name
        ours = flat(variables)
        model = classifier(11, dict(TINY, norms=norms))
        wanted = {n for n in flat(shapes(model)) if len(found) == 2 or "/backbone/" in n}
        assert set(ours) == wanted
        for n in ours:
            if n in expected:
                np.testing.assert_array_equal(ours[n], expected[n])
        again, left = untranslate(ours, found)
        assert not left
        buffers = {k for k in source if k.endswith(("relative_position_index", "attn_mask"))}
        assert len(buffers) == 2 and set(again) == set(source) - buffers
        assert all(np.array_equal(again[k], source[k]) for k in again)


def test_merging_of_mmsegmentation_is_torchs_unfold():
    """Unfold puts a channel's four pixels side by side, row by row."""
    rng = np.random.default_rng(0)
    x, reduction = rng.standard_normal((1, 4, 6, 3)), rng.standard_normal((5, 12))
    unfold = x.reshape(1, 2, 2, 3, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(1, 2, 3, 12)
    (ours,) = tables.unfolded_dense.read(reduction)
    np.testing.assert_allclose(merge_patches(x, 2) @ ours, unfold @ reduction.T, rtol=1e-12)
    (scale,) = tables.unfolded.read(reduction[0])
    np.testing.assert_allclose(merge_patches(x, 2) @ scale, unfold @ reduction[0], rtol=1e-12)


@pytest.mark.parametrize("source", KEYS)
def test_published_keys_are_translated_both_ways(source):
    keys = KEYS[source]["keys"]
    rng = np.random.default_rng(0)
    state = {k: rng.standard_normal(shape, dtype=np.float32) for k, shape in keys.items()}
    found = recognise(state, tables.LAYOUTS)
    values, unknown = translate(state, found)
    assert not unknown and len(found) == 2
    expected = flat(shapes(classifier(1000, SIZES[KEYS[source]["model"]])))
    assert {k: v.shape for k, v in values.items()} == {k: v.shape for k, v in expected.items()}
    again, left = untranslate(values, found)
    assert not left and again.keys() == state.keys()
    assert all(np.array_equal(again[k], state[k]) for k in again)


def test_rectangles_odd_and_small_sizes():
    backbone = Swin(**dict(TINY, windows=(7,) * 4))
    for size, grids in (
        ((65, 97), [(17, 25), (9, 13), (5, 7), (3, 4)]),
        ((32, 250), [(8, 63), (4, 32), (2, 16), (1, 8)]),
        ((5, 9), [(2, 3), (1, 2), (1, 1), (1, 1)]),
    ):
        features = jax.eval_shape(
            lambda size=size: backbone.init_with_output(
                jax.random.key(0), jnp.zeros((1, *size, 3)), train=False
            )[0]
        )
        assert [x.shape[1:3] for x in features.maps] == grids
        assert features.strides == (4, 8, 16, 32) and features.widths == TINY["widths"]
    # Parameters do not depend on the size of the image.
    small, large = (flat(shapes(backbone, size)) for size in ((32, 32), (224, 100)))
    assert all(small[name].shape == large[name].shape for name in large)


def test_norms_on_the_maps():
    images = jax.random.normal(jax.random.key(1), (1, 33, 49, 3))
    one, every = (classifier(3, dict(SMALL, norms=norms)) for norms in ("last", "all"))
    variables = drawn(every)
    norm = variables["params"]["backbone"].pop("stage1_norm")
    raw = outputs(one, variables, images)
    variables["params"]["backbone"]["stage1_norm"] = norm
    normed = outputs(every, variables, images)
    x = np.asarray(raw[0][0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed[0][0], x * norm["scale"] + norm["bias"], atol=1e-5)
    # The stream that goes on is not the normalised one.
    np.testing.assert_allclose(normed[0][1], raw[0][1], atol=1e-5)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    images = jax.random.normal(jax.random.key(1), (1, 33, 49, 3))
    full, half = (classifier(3, SMALL, dtype) for dtype in (None, jnp.bfloat16))
    assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(shapes(half)))
    variables = drawn(full)
    (_, expected), (maps, logits) = (outputs(m, variables, images) for m in (full, half))
    assert logits.dtype == jnp.float32 and maps[0].dtype == jnp.bfloat16
    error = np.abs(logits - expected)
    assert 0 < error.mean() < 0.02 * np.std(expected)


def test_drop_path_and_remat():
    images = jax.random.normal(jax.random.key(1), (4, 17, 25, 3))
    fields = dict(widths=(8,), depths=(2,), heads=(2,), windows=((2, 3),), drop_path=0.5)
    plain, remat = (classifier(3, dict(fields, remat=r)) for r in (False, True))
    variables = drawn(plain)

    run = gradient_by_seed(plain, variables, images)
    remade = gradient_by_seed(remat, variables, images)
    first, other, again = (flat(g) for g in (run(0), run(1), remade(0)))
    for name in first:
        scale = np.abs(first[name]).max()
        np.testing.assert_allclose(first[name], again[name], atol=1e-4 * scale + 1e-7)
        # The bias of keys cannot change a softmax, padding or not.
        reached = np.any(first[name]) or np.any(other[name])
        assert reached == (not name.endswith("attention/key/bias")), name
    assert any(np.abs(first[n] - other[n]).max() > 1e-2 * np.abs(first[n]).max() for n in first)
    # Evaluation asks for no random numbers and repeats itself.
    one, two = (outputs(plain, variables, images)[1] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_bad_fields_are_refused():
    for changes, message in (
        (dict(depths=(1,)), "one value per stage"),
        (dict(heads=(2, 3)), "heads must divide"),
        (dict(windows=((2, 3, 4), 7)), "positive side"),
        (dict(windows=(0, 7)), "positive side"),
        (dict(norms="first"), 'norms "first" is none of'),
    ):
        with pytest.raises(UserError, match=message):
            Swin(**{**SMALL, **changes})
    # A list comes from a configuration file in JSON.
    assert Swin(**dict(SMALL, windows=[[2, 3], 3])).windows == ((2, 3), (3, 3))
