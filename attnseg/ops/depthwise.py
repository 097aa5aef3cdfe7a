"""Depthwise convolution with its own gradient.

XLA runs grouped convolution on the CPU through a generic loop. In its place, all of the same
arithmetic up to the order of the sums:

- forward and gradient of the input: shifted multiply-adds in one vectorised pass; in blocks of
  channels where a neighbourhood is too large for the nearest cache, in rows of an odd number of
  pixels where those under a column would share its places;
- gradient of the kernel: the taps' products with one pixel after the other, a tile at a time;
- forward on so small a grid that most taps meet padding: a matrix for each channel.

Other platforms use XLA's grouped convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.platforms import apart, is_plain
from attnseg.ops.precision import accumulator
from attnseg.ops.resize import is_static

_TILE = 32  # products written out in the kernel gradient
# Taps written out in the shifted sum. More run in a loop over the rows of the kernel: 21x21 takes a
# second to compile in place of a quarter of an hour. 11x11 would run longer.
_SHIFTED_TAPS = 200
_WAYS = 8  # places of the nearest cache for addresses that differ by multiples of 4 KB
_ACCUMULATORS = 4  # sums that make up a sum of taps: one alone waits for each of its additions
# Channels worked on at a time: in the kernel gradient, and in the sum so many that a kernel of them
# takes this many bytes. Kernels of fewer taps lose more by the scattered accesses than they gain.
_GRADIENT_BLOCK = 128
_KERNEL_BYTES, _BLOCKED_TAPS = 2**14, 25


def _pad(x: Array, kernel: Array, below: int, right: int) -> Array:
    """Zeros for the kernel around the map, and some more at two of its sides.

    In one step: of two XLA computes both, and takes each tap from the smaller map that holds it.
    A tall column's pixels, often multiples of 4 KB apart, would drive each other out of the nearest
    cache; rows of an odd number of pixels give them different places.
    """
    top, left = (side // 2 for side in kernel.shape[:2])
    w = x.shape[2] + right
    if kernel.shape[1] == 1 and kernel.shape[0] > _WAYS and is_static(w) and w % 2 == 0:
        right += 1
    return jnp.pad(x, [(0, 0), (top, top + below), (left, left + right), (0, 0)])


def _kernel_gradient_conv(x: Array, grad: Array, kernel: Array) -> Array:
    return jax.linear_transpose(lambda k: direct_conv(x, k), kernel)(grad)[0]


def _block(channels: int, most: int) -> int:
    """The largest part of the channels, up to `most`, that fills vectors; all if there is none."""
    return max((b for b in range(8, most + 1, 8) if channels % b == 0), default=channels)


def _by_block(
    function: Callable[[Array], Array], block: int, like: Array | jax.ShapeDtypeStruct, seed: Array
) -> Array:
    """``function(first)``, of `block` channels from the first on, for all: the last axis.

    What the loop starts with is written over. It is made of `seed`, an array that no other loop of
    these sizes starts from: of equal starts XLA makes one, and copies it for each.
    """

    def part(index: Array, out: Array) -> Array:
        first = index * block
        return jax.lax.dynamic_update_slice_in_dim(out, function(first), first, axis=-1)

    first = seed[(0,) * seed.ndim]  # raveled, a kernel divided over devices would be gathered
    start = jnp.broadcast_to(first.astype(like.dtype) * 0, like.shape)
    return jax.lax.fori_loop(0, like.shape[-1] // block, part, start)


def _sum(terms: Sequence[Array]) -> Array:
    return sum(sum(terms[i::_ACCUMULATORS]) for i in range(min(_ACCUMULATORS, len(terms))))


def _shift_and_add(x: Array, kernel: Array) -> Array:
    return sum_of_taps(_pad(x, kernel, 1, 0), kernel, *x.shape[1:3])


def sum_of_taps(padded: Array, kernel: Array, h: int, w: int) -> Array:
    """Convolution of an h x w map with zeros around it, a row more below than it needs at least.

    That row is cut off without being computed. The cut keeps XLA from drawing the sum into a fusion
    of its matrix library, for which it would write out every moved map.
    """
    n, c = padded.shape[0], padded.shape[-1]
    rows, columns = kernel.shape[:2]
    if rows * columns <= _SHIFTED_TAPS:
        terms = [
            padded[:, i : i + h + 1, j : j + w] * kernel[i, j, 0]
            for i in range(rows)
            for j in range(columns)
        ]
        return _sum(terms)[:, :h]

    def add(total: Array, i: Array) -> tuple[Array, None]:
        below = jax.lax.dynamic_slice_in_dim(padded, i, h + 1, axis=1)
        taps = jax.lax.dynamic_index_in_dim(kernel[:, :, 0], i, keepdims=False)
        return total + _sum([below[:, :, j : j + w] * taps[j] for j in range(columns)]), None

    zero = jnp.zeros((n, h + 1, w, c), accumulator(padded))
    return jax.lax.scan(add, zero, jnp.arange(rows))[0][:, :h].astype(padded.dtype)


def _tile(h: int, w: int, rows: int, columns: int) -> tuple[int, int]:
    """Sides of the tiles of an h x w grid in which a kernel's gradient is summed.

    Up to `_TILE` pixels, with as little beyond the edge, and as little read twice, as can be; two
    tiles at least, since XLA computes the padding anew for each tap where there is no loop.
    """
    sides = [
        (a, b)
        for a in range(1, min(h, _TILE) + 1)
        for b in range(1, min(w, _TILE // a) + 1)
        if a * b >= min(_TILE // 4, h * w // 4) and (a * b < h * w or h * w == 1)
    ]

    def cost(side: tuple[int, int]) -> int:
        a, b = side
        # A number read takes as long as four products, beginning a row as long as eight numbers.
        read = (a + rows - 1) * (b + columns - 1 + 8)
        return -(-h // a) * -(-w // b) * (4 * read + a * b * rows * columns)

    return min(sides, key=cost)


@functools.lru_cache(maxsize=64)
def _offsets(side: int, length: int) -> np.ndarray:
    """[side length length]: 1 where tap r of a kernel takes pixel a of the input to pixel i."""
    place = np.arange(length)
    offset = place[:, None] - place[None, :] + side // 2
    taps = (offset == np.arange(side)[:, None, None]).astype(np.float32)
    taps.setflags(write=False)  # shared through the cache
    return taps


def _matrices(kernel: Array, h: int, w: int) -> Array:
    """The convolution as a matrix [c h*w h*w] of each channel: input pixel, output pixel."""
    rows, columns = (
        jnp.asarray(_offsets(side, length), kernel.dtype)
        for side, length in zip(kernel.shape, (h, w), strict=False)
    )
    taps = jnp.einsum("rsc,sbj->crbj", kernel[:, :, 0], columns, precision="highest")
    taps = jnp.einsum("crbj,rai->cabij", taps, rows, precision="highest")
    return taps.reshape(-1, h * w, h * w)


def _by_channel(x: Array) -> Array:
    return jnp.transpose(x.reshape(x.shape[0], -1, x.shape[-1]), (2, 0, 1))


def _matrix_conv(x: Array, kernel: Array) -> Array:
    matrices = _matrices(kernel, *x.shape[1:3])
    out = jnp.einsum("cnq,cqp->cnp", _by_channel(x), matrices, precision="highest")
    return jnp.transpose(out, (1, 2, 0)).reshape(x.shape)


def _pays_as_matrix(x: Array, kernel: Array) -> bool:
    """Whether a matrix of each channel takes less time on a CPU than sums over taps.

    It meets every pair of pixels, and making it takes as long as using it on some examples.
    """
    n, h, w, _ = x.shape
    if not is_static(n, h, w):  # of a program exported for any size
        return False
    pixels, taps = h * w, kernel.shape[0] * kernel.shape[1]
    return 3 * pixels <= 2 * taps and n * taps >= 32 * pixels


def _forward_cpu(x: Array, kernel: Array) -> Array:
    if _pays_as_matrix(x, kernel):
        return _matrix_conv(x, kernel)
    rows, columns, _, channels = kernel.shape
    taps = rows * columns
    most = _KERNEL_BYTES // (taps * kernel.dtype.itemsize)
    block = _block(channels, most) if taps >= _BLOCKED_TAPS else channels
    if block >= channels:
        return _shift_and_add(x, kernel)

    def part(first: Array) -> Array:
        parts = [jax.lax.dynamic_slice_in_dim(a, first, block, axis=-1) for a in (x, kernel)]
        # XLA would draw the sum into the writing of its block, which it gives one thread.
        return apart(_shift_and_add, *parts)

    return _by_block(part, block, x, kernel)


def pad_for_gradient(x: Array, kernel: Array) -> Array:
    """Zeros around a map: what both `sum_of_taps` and `kernel_gradient_of` need of an h x w map."""
    h, w = x.shape[1:3]
    a, b = _tile(h, w, *kernel.shape[:2])
    # Where tiles fill the map this is what `_shift_and_add` asks for, so that XLA pads once.
    return _pad(x, kernel, max(-h % a, 1), -w % b)


def kernel_gradient_of(padded: Array, grad: Array, kernel: Array, h: int, w: int) -> Array:
    """Sums over pixels of a map moved by each tap times ``grad``, a tile of pixels at a time.

    All taps of a pixel are a part of the map as large as the kernel: a tile adds as many such parts
    as it has pixels, each times one number of `grad` a channel.

    Args:
      padded: the map, by `pad_for_gradient`.
      grad: [n h w c], or that by `pad_for_gradient`.
      kernel: [kh kw 1 c].
      h, w: sides of the map.
    """
    n, c = grad.shape[0], grad.shape[-1]
    rows, columns = kernel.shape[:2]
    block = _block(c, _GRADIENT_BLOCK)
    a, b = _tile(h, w, rows, columns)
    down, across = -(-h // a), -(-w // b)
    top, left = rows // 2, columns // 2
    if grad.shape[1:3] == (h, w):  # a padded one has a row more at least
        top = left = 0
        grad = jnp.pad(grad, [(0, 0), (0, -h % a), (0, -w % b), (0, 0)])
    dtype = accumulator(grad)

    def tiles(first: Array) -> Array:
        def tile(place: Array, total: Array) -> Array:
            y, x = place // across * a, place % across * b
            around = jax.lax.dynamic_slice(
                padded, (0, y, x, first), (n, a + rows - 1, b + columns - 1, block)
            ).astype(dtype)
            part = jax.lax.dynamic_slice(
                grad, (0, y + top, x + left, first), (n, a, b, block)
            ).astype(dtype)
            terms = [
                around[:, i : i + rows, j : j + columns] * part[:, i : i + 1, j : j + 1]
                for i in range(a)
                for j in range(b)
            ]
            return total + _sum(terms)

        zero = jnp.zeros((n, rows, columns, block), dtype)
        return jax.lax.fori_loop(0, down * across, tile, zero)

    each = jax.ShapeDtypeStruct((n, rows, columns, c), dtype)
    # Examples are added last, so that devices that share them meet once and not in each block.
    total = _by_block(tiles, block, each, kernel).sum(0)
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _kernel_gradient_cpu(x: Array, grad: Array, kernel: Array) -> Array:
    return kernel_gradient_of(pad_for_gradient(x, kernel), grad, kernel, *x.shape[1:3])


# What each platform runs, by measurement (docs/performance.md).
FORWARD = {"cpu": _forward_cpu, "default": direct_conv}
KERNEL_GRADIENT = {"cpu": _kernel_gradient_cpu, "default": _kernel_gradient_conv}


def depthwise_conv(x: Array, kernel: Array) -> Array:
    """Depthwise convolution, stride 1, zero padding that keeps the grid.

    Args:
      x: [n h w c].
      kernel: [kh kw 1 c] with odd kh and kw.

    Returns:
      [n h w c], in the dtype of `x`.
    """
    return direct_conv(x, kernel) if is_plain() else _depthwise_conv(x, kernel)


@jax.custom_vjp
def _depthwise_conv(x: Array, kernel: Array) -> Array:
    return jax.lax.platform_dependent(x, kernel, **FORWARD)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_conv(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    # Correlating the gradient with the flipped kernel is the transpose of a "same" convolution.
    grad_x = _depthwise_conv(grad, kernel[::-1, ::-1])
    return grad_x, jax.lax.platform_dependent(x, grad, kernel, **KERNEL_GRADIENT)


_depthwise_conv.defvjp(_forward, _backward)
