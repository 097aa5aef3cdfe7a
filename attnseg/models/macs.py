"""Multiply-accumulates of a network as published, found from shapes alone.

What papers call FLOPs: products of convolutions, linear maps and attention, one per pair of
factors; neither biases, norms, activations, pooling nor interpolation. Where this package saves
products by exact algebra (decoders that mix before they enlarge, non-local attention without an
l x l map), those of the plain form are counted, so that numbers compare with published ones.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from attnseg.core.types import Features
from attnseg.layers.criss_cross import CrissCrossAttention
from attnseg.layers.efficient_attention import EfficientAttention
from attnseg.layers.em_attention import EMAttention
from attnseg.layers.hamburger import Hamburger
from attnseg.layers.nonlocal_attention import ChannelAttention, NonLocal2d, PositionAttention
from attnseg.layers.relpos_attention import MHSA
from attnseg.layers.window_attention import WindowAttention
from attnseg.models.heads.rcca import VARIANTS, RCCAHead
from attnseg.models.heads.segformer import SegFormerHead


def _pixels(x: Array) -> int:
    """Vectors of one example of [n ... c]."""
    return math.prod(x.shape[1:-1])


def _efficient(module: EfficientAttention, x: Array) -> int:
    """Every pixel with every key of the reduced grid: logits and sums (SegFormer, eq. 1)."""
    keys = math.prod(side // module.reduction for side in x.shape[1:3])
    return 2 * _pixels(x) * keys * x.shape[-1]


def _window(module: WindowAttention, x: Array) -> int:
    """Every pixel with its window, twice; published code runs `out` on the padding too."""
    _, h, w, c = x.shape
    window = [min(v, side) for v, side in zip(module.window, (h, w), strict=True)]
    padded = math.prod(-(-side // v) * v for v, side in zip(window, (h, w), strict=True))
    return 2 * padded * math.prod(window) * c + (padded - h * w) * c * c


def _mhsa(module: MHSA, x: Array) -> int:
    """Every pixel with every pixel, twice, and the position logits.

    Relative: with each row of both tables, then skewed (BoTNet's appendix and timm); the others:
    with one vector per key.
    """
    _, h, w, _ = x.shape
    vectors = {"none": 0, "relative": 2 * h - 1 + 2 * w - 1}.get(module.position, h * w)
    return h * w * (2 * h * w + vectors) * module.features


def _criss_cross(module: CrissCrossAttention, x: Array) -> int:
    """Every pixel with its row and its column, h + w pixels (CCNet, section 3.2)."""
    _, h, w, c = x.shape
    return h * w * (h + w) * (c // module.reduction + c)


def _non_local(module: NonLocal2d, x: Array) -> int:
    """Every pixel with every pixel, over queries and over values, in all modes."""
    c, width = x.shape[-1], x.shape[-1] // module.reduction
    return _pixels(x) ** 2 * ((c if module.mode == "gaussian" else width) + width)


def _position(module: PositionAttention, x: Array) -> int:
    """Every pixel with every pixel (DANet, section 3.2)."""
    return _pixels(x) ** 2 * (module.width + x.shape[-1])


def _channel(module: ChannelAttention, x: Array) -> int:
    """Every channel with every channel, twice (DANet, section 3.3)."""
    return 2 * _pixels(x) * x.shape[-1] ** 2


def _em(module: EMAttention, x: Array) -> int:
    """An E and an M step per iteration, and the reconstruction (EMANet, section 3)."""
    return (2 * module.stages + 1) * _pixels(x) * x.shape[-1] * module.bases


def _hamburger(module: Hamburger, x: Array) -> int:
    """NMF of an l x d map by r bases with the steps of evaluation (see `attnseg.ops.nmf`).

    An update takes a product with the map, the Gram matrix of one factor and a product of that
    with the other factor: l d r + d r r + l r r. Start and reconstruction take l d r each.
    """
    pixels, d, r = _pixels(x), module.channels, module.rank
    update = pixels * d * r + (d + pixels) * r * r
    return (2 * module.eval_steps + 1) * update + 2 * pixels * d * r


def _segformer(module: SegFormerHead, features: Features) -> int:
    """One matrix over the concatenation of all stages on the finest grid (SegFormer, eq. 4)."""
    return _pixels(features.maps[0]) * len(features.maps) * module.width**2


def _rcca(module: RCCAHead, features: Features) -> int:
    """The post's classifier runs on the enlarged map."""
    more = VARIANTS[module.variant].enlarge ** 2 - 1
    return more * _pixels(features.maps[-1]) * module.width * module.num_classes


# What a module multiplies besides the kernels of parameters, from it and its input.
PRODUCTS: dict[type[nn.Module], Callable[[Any, Any], int]] = {
    EfficientAttention: _efficient,
    WindowAttention: _window,
    MHSA: _mhsa,
    CrissCrossAttention: _criss_cross,
    NonLocal2d: _non_local,
    PositionAttention: _position,
    ChannelAttention: _channel,
    EMAttention: _em,
    Hamburger: _hamburger,
    SegFormerHead: _segformer,
    RCCAHead: _rcca,
}


def trace_macs(module: nn.Module, *inputs: Any, **options: Any) -> dict[str, int]:
    """Multiply-accumulates per example of ``module(*inputs, **options)``, by path of submodules.

    Inputs may be `jax.ShapeDtypeStruct`; nothing is computed or compiled.
    """
    counts: dict[str, int] = collections.Counter()

    def count(
        call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        out = call(*args, **kwargs)
        if context.method_name != "__call__":
            return out
        current, path = context.module, "/".join(context.module.path)
        # A matrix or convolution: the kernel, once per pixel of the map that comes out.
        if current.has_variable("params", "kernel"):
            kernel = current.get_variable("params", "kernel")
            counts[path] += _pixels(jax.tree.leaves(out)[0]) * kernel.size
        if type(current) in PRODUCTS:
            counts[path] += PRODUCTS[type(current)](current, args[0])
        return out

    def run(key: Array, *inputs: Any) -> Any:
        with nn.intercept_methods(count):
            return module.init(key, *inputs, **options)

    jax.eval_shape(run, jax.random.key(0), *inputs)
    return dict(counts)


def count_macs(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates for one image of `image_size` (h, w), as published.

    Returns:
      Numbers by part of the model: "backbone", "head" and, where there is one, "aux_head", which
      only training needs and published totals leave out.
    """
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    parts: dict[str, int] = collections.Counter()
    for path, macs in trace_macs(model, image, train=False).items():
        parts[path.split("/")[0]] += macs
    return dict(parts)
