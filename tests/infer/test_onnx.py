"""The ONNX graph is the network. Skipped where jax2onnx or onnxruntime is missing."""

import jax
import numpy as np
import pytest
from saved_run import fill

from attnseg import create_model
from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.infer import export, onnx
from attnseg.ops import depthwise, dilated_depthwise, platforms, strided_conv
from attnseg.recipe.exporting import make_server

SMALL = dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1))
RESNET = dict(depths=(1, 1, 1, 1), width=4, stem_width=4)


def network(name, backbone, head):
    aux = {"aux_head": False} if "_r50" in name else {}
    model = create_model(name, 5, backbone=backbone, head=head, **aux)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return model, fill(shapes)


def check(name, backbone, head, size, **options):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    server = make_server(*network(name, backbone, head), IMAGENET, **options)
    sizes = export.fixed(size)
    run = onnx.run_onnx(onnx.to_onnx(server, sizes))
    assert export.verify(server, run, sizes, name) < 1e-4


@pytest.mark.parametrize(
    "size, options",
    [
        ((64, 64), {}),  # bytes to labels
        ((64, 96), dict(images="float32", result="logits")),
        ((70, 45), dict(result="probabilities")),
    ],
)
def test_segformer_at_three_sizes(size, options):
    check("segformer_b0", dict(SMALL, heads=(1, 2, 3, 4)), dict(width=16), size, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, backbone, head",
    [
        ("segnext_t", SMALL, dict(width=16, groups=4, rank=4)),
        ("ccnet_r50", RESNET, dict(width=8)),
        ("deeplabv3plus_r50", RESNET, dict(width=8)),
        ("botnet50", dict(depths=(1, 1, 1, 1), width=4), {}),
        ("conv2former_n", dict(SMALL, kernel=5), {}),
    ],
)
def test_other_families(name, backbone, head):
    check(name, backbone, head, (64, 96), result="logits")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"pip install 'attnseg\[onnx\]'"):
        onnx.require_onnx()


def test_plain_convolutions_are_single_operations():
    """What ONNX gets instead of shifted sums and own gradients, with the same numbers."""
    x = np.random.default_rng(0).normal(size=(1, 9, 8, 4)).astype(np.float32)
    depthwise_kernel = np.random.default_rng(1).normal(size=(5, 3, 1, 4)).astype(np.float32)
    dense_kernel = np.random.default_rng(2).normal(size=(3, 3, 4, 5)).astype(np.float32)
    for function, kernel in (
        (depthwise.depthwise_conv, depthwise_kernel),
        (lambda x, k: dilated_depthwise.dilated_depthwise_conv(x, k, 2), depthwise_kernel),
        (lambda x, k: strided_conv.strided_conv(x, k, 2), dense_kernel),
    ):
        expected = function(x, kernel)
        with platforms.plain_convolutions():
            jaxpr = jax.make_jaxpr(lambda x, k, f=function: f(x, k))(x, kernel)
            found = function(x, kernel)
        assert [e.primitive.name for e in jaxpr.eqns] == ["conv_general_dilated"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not platforms.is_plain()
