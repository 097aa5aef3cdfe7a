"""Every backbone with every head: one training step, and evaluation.

A step is taken by the chain rule in two halves, one for the backbone and one for the head, so that
a half is compiled once for all its partners with maps of the same shapes.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnseg
from attnseg.core.tree import flat, map_with_names
from attnseg.core.types import Features
from attnseg.models import zoo
from attnseg.objectives import cross_entropy
from attnseg.ops import depthwise
from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.resize import resize_bilinear

CLASSES, SIZE = 5, (64, 96)
# Dropped paths would leave their parameters without a gradient.
FOUR = dict(widths=(8, 16, 32, 64), depths=(1, 1, 1, 1), drop_path=0.0)
BACKBONES = {
    "mit_b0": dict(FOUR, heads=(1, 2, 4, 8)),
    "mscan_t": FOUR,
    "resnet18": dict(width=8, depths=(1, 1, 1, 1)),
    "resnet50c_d8": dict(width=2, depths=(1, 1, 1, 1)),
    "botnet18": dict(width=8, depths=(1, 1, 1, 1)),
    "conv2former_n": dict(FOUR, kernel=3),
    "conv2former_n_cifar": dict(FOUR, kernel=3),
    "swin_t": dict(FOUR, heads=(1, 2, 4, 8), windows=(4, 4, 4, 4)),
}
HEADS = {
    "segformer": dict(width=12),
    "light_ham": dict(width=16, rank=4, groups=4),
    "rcca": dict(width=16),
    "fcn": dict(width=8),
    "psp": dict(width=8, pools=(1, 2)),
    "aspp": dict(width=8, low_width=4, dilations=(1, 2)),
    "danet": dict(width=16, position_width=4),
    "emanet": dict(width=8, ema_width=8, bases=4),
    "nonlocal": dict(width=8),
    "upernet": dict(width=8, pools=(1, 2)),
    "linear": {},
}
# Parameters with a gradient of zero, and why.
NO_GRADIENT = {
    "mit_b0": (r"attention/key/bias$",),  # softmax removes what all keys share
    "mscan_t": (r"embed/(down\d/)?bias$",),  # BatchNorm removes it
    "swin_t": (r"attention/key/bias$",),
    "rcca": (r"/key/bias$",),
    "danet": (r"/key/bias$",),
    "nonlocal": (r"/key/bias$",),
    "segformer": (r"^stage\d/bias$",),  # BatchNorm removes it
    "emanet": (r"^mid/",),  # no gradient passes the estimated bases; the published code freezes it
}


@pytest.fixture(autouse=True, scope="module")
def grouped_convolutions():
    """Slower to run than shifted sums, but much quicker to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(depthwise.FORWARD, "cpu", direct_conv)
        patch.setitem(depthwise.KERNEL_GRADIENT, "cpu", depthwise._kernel_gradient_conv)
        yield


@functools.cache
def model_of(backbone: str, head: str, dtype: str = "float32"):
    return attnseg.create_model(
        f"{backbone}+{head}",
        CLASSES,
        backbone=dict(BACKBONES[backbone]),
        head=dict(HEADS[head]),
        dtype=dtype,
    )


def perturbed(variables, seed):
    """Moves every parameter: gates and layer scales start at zero, where gradients are zero."""
    rng = np.random.default_rng(seed)
    params = jax.tree_util.tree_map(
        lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape, np.float32),
        variables["params"],
    )
    return {**variables, "params": params}


def images():
    return jax.random.normal(jax.random.key(1), (2, *SIZE, 3))


def rngs():
    return {"dropout": jax.random.key(2)}


class Half:
    """A backbone or a head: its variables, a training step of it, and its evaluation."""

    def __init__(self, module, x):
        self.module = module
        self.variables = perturbed(
            jax.jit(lambda: module.init(jax.random.key(0), x, train=False))(), seed=3
        )
        self.evaluate = jax.jit(lambda v, x: module.apply(v, x, train=False))

    @functools.cached_property
    def forward(self):
        def run(params, x):
            return self.module.apply(
                {**self.variables, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs=rngs(),
            )

        return run


@functools.cache
def backbone_half(name: str, dtype: str = "float32") -> Half:
    return Half(model_of(name, "fcn", dtype).backbone, images())


@functools.cache
def backbone_maps(name: str):
    """Maps and moved statistics of a training step, and the function that goes back."""
    half = backbone_half(name)

    @jax.jit
    def forward(params):
        def maps(params):
            features, state = half.forward(params, images())
            return features.maps, (features, state)

        _, back, (features, state) = jax.vjp(maps, params, has_aux=True)
        return features, state, back

    return forward(half.variables["params"])


go_back = jax.jit(lambda back, gradients: back(gradients))


@functools.cache
def head_half(name: str, widths: tuple, strides: tuple, grids: tuple) -> tuple[Half, object]:
    example = Features(
        tuple(jnp.zeros((2, *g, c)) for g, c in zip(grids, widths, strict=True)), strides, widths
    )
    half = Half(model_of("resnet18", name).head, example)
    labels = jax.random.randint(jax.random.key(4), (2, *SIZE), 0, CLASSES)
    labels = jnp.where(labels == 0, 255, labels)

    def loss(params, features):
        logits, state = half.forward(params, features)
        main, *rest = (logits[0], *logits[1]) if isinstance(logits, tuple) else (logits,)
        total = 0.0
        for factor, out in zip((1.0, 0.4, 0.4), (main, *rest), strict=False):
            if out.ndim == 2:
                part, weight = cross_entropy(out, labels[:, 0, 0])
            else:
                part, weight = cross_entropy(resize_bilinear(out, SIZE), labels)
            total += factor * part / weight
        return total, state

    return half, jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def head_of(features: Features, name: str):
    grids = tuple(x.shape[1:3] for x in features.maps)
    return head_half(name, features.widths, features.strides, grids)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_training_step_reaches_every_parameter(backbone, head):
    features, backbone_stats, back = backbone_maps(backbone)
    half, step = head_of(features, head)
    (loss, state), (head_grads, feature_grads) = step(half.variables["params"], features)
    assert np.isfinite(loss)

    whole = backbone_half(backbone)
    (grads,) = go_back(back, feature_grads.maps)
    used = [bool(np.any(g)) for g in feature_grads.maps]
    for name, gradient in [*flat(grads).items(), *flat(head_grads).items()]:
        assert np.all(np.isfinite(gradient)), name
        excepted = any(
            re.search(p, name) for part in (backbone, head) for p in NO_GRADIENT.get(part, ())
        )
        # The norm of a map that this head does not look at.
        alone = re.match(r"stage(\d)_norm/", name)
        if (
            alone
            and not used[int(alone[1]) - 1]
            and zoo.BACKBONES[backbone].cls.__name__
            in (
                "Swin",
                "Conv2Former",
            )
        ):
            excepted = True
        assert np.any(gradient) != excepted, name

    for before, after in (
        (whole.variables.get("batch_stats", {}), backbone_stats.get("batch_stats", {})),
        (half.variables.get("batch_stats", {}), state.get("batch_stats", {})),
    ):
        moved = flat(after)
        assert moved.keys() == flat(before).keys()
        assert all(np.any(x != moved[name]) for name, x in flat(before).items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_are_deterministic_and_work_in_bfloat16(backbone):
    full, half = (backbone_half(backbone, d) for d in ("float32", "bfloat16"))
    assert all(x.dtype == np.float32 for x in jax.tree_util.tree_leaves(half.variables))
    maps = [m.evaluate(full.variables, images()).maps for m in (full, full, half)]
    for exact, again, close in zip(*maps, strict=True):
        np.testing.assert_array_equal(exact, again)
        assert close.dtype == jnp.bfloat16
        error = np.abs(exact - close.astype(np.float32))
        assert 0 < error.mean() < 0.03 * np.std(exact)


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_deterministic_and_work_in_bfloat16(head):
    features = backbone_maps("resnet18")[0]
    full, _ = head_of(features, head)
    half = model_of("resnet18", head, "bfloat16").head
    low = map_with_names(lambda _, x: x.astype(jnp.bfloat16), features)
    outputs = [
        full.evaluate(full.variables, features),
        full.evaluate(full.variables, features),
        jax.jit(lambda v, x: half.apply(v, x, train=False))(full.variables, low),
    ]
    exact, again, close = (x[0] if isinstance(x, tuple) else x for x in outputs)
    np.testing.assert_array_equal(exact, again)
    assert exact.dtype == close.dtype == jnp.float32 and exact.shape[-1] == CLASSES
    error = np.abs(exact - close)
    assert 0 < error.mean() < 0.03 * np.std(exact)
