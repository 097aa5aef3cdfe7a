"""3x3 convolution of stride 1; on a CPU by Winograd's minimal filtering (arXiv:1509.09308).

F(2x2, 3x3): four neighbouring results need 4x4 pixels. With pixels, kernel and results transformed
by small matrices they cost 16 products for each pair of channels in place of 36,

    Y = A' [(G g G') * (B' d B)] A,

the product in the middle being one matrix product over channels and all tiles for each of the 16
places. The matrices hold 0, 1, -1 and 1/2: in float32 the result differs from that of a direct
convolution by about as much as one order of summation from another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.ops.direct_conv import direct_conv
from attnseg.ops.platforms import by_platform, is_plain
from attnseg.ops.resize import is_static

# Measured on a CPU. Transforming costs the same for each number of a map, and saves products by the
# number of channels; within the cache it costs less. Tiles beyond the map's edge are for nothing.
_WIDE = 256  # channels that always pay
_NARROW, _CACHED = 64, 5_000_000  # channels that pay for so many transformed numbers
_MOST = 64_000_000  # transformed numbers; the memory is not worth the time beyond them
_WASTE = 1.31


def conv3x3(x: Array, kernel: Array, dilation: int = 1) -> Array:
    """[n h w c] * [3 3 c o] -> [n h w o], zeros around the map."""
    if is_plain() or not _pays(x, kernel, dilation):
        return direct_conv(x, kernel, dilation=dilation)
    return _conv3x3(x, kernel, dilation)


def _pays(x: Array, kernel: Array, dilation: int) -> bool:
    if not is_static(*x.shape) or x.dtype != jnp.float32:
        return False
    n, h, w, _ = x.shape
    covered = 4 * dilation**2 * _tiles(h, dilation) * _tiles(w, dilation)
    narrow, wide = sorted(kernel.shape[2:])
    if not 0 < covered <= _WASTE * h * w or narrow < _NARROW:
        return False
    return 0 < 4 * n * covered * wide <= (_MOST if narrow >= _WIDE else _CACHED)


def _convolution(x: Array, kernel: Array, *, dilation: int, platform: str) -> Array:
    if platform == "cpu":
        return _winograd(x, kernel, dilation)
    return direct_conv(x, kernel, dilation=dilation)


def _gradients(x: Array, kernel: Array, grad: Array, *, dilation: int, platform: str):
    if platform != "cpu":
        return jax.vjp(lambda *args: direct_conv(*args, dilation=dilation), x, kernel)[1](grad)
    # The barrier keeps XLA from holding the transformed pixels, four times the map, until now.
    x, kernel = jax.lax.optimization_barrier((x, kernel))
    # That of the pixels is a convolution again, by the kernel turned round, back to `c` channels.
    of_pixels = _winograd(grad, kernel[::-1, ::-1], dilation, back=True)
    of_kernel = jax.vjp(lambda kernel: _winograd(x, kernel, dilation), kernel)[1](grad)[0]
    return of_pixels, of_kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, dilation: int) -> Array:
    return by_platform(functools.partial(_convolution, dilation=dilation), x, kernel)


def _forward(x: Array, kernel: Array, dilation: int):
    return _conv3x3(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    return by_platform(functools.partial(_gradients, dilation=dilation), *kept, grad)


_conv3x3.defvjp(_forward, _backward)


def _pixels(d: Sequence[Array]) -> list[Array]:
    """B' d of four pixels."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _taps(g: Sequence[Array]) -> list[Array]:
    """G g of three taps."""
    ends, middle = (g[0] + g[2]) / 2, g[1] / 2
    return [g[0], ends + middle, ends - middle, g[2]]


def _results(m: Sequence[Array]) -> list[Array]:
    """A' m of four products."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _both(transform: Callable, rows: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """`transform` along the columns of a square of arrays, then along its rows."""
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [transform(row) for row in zip(*columns, strict=True)]


def _tiles(length: int, dilation: int) -> int:
    """Groups of `dilation` tiles that cover a side."""
    return -(-length // (2 * dilation))


def _winograd(x: Array, kernel: Array, dilation: int, back: bool = False) -> Array:
    """`direct_conv` with 16/36 of its products.

    `back`: from the kernel's last axis to the one before.
    Results `dilation` apart belong to one tile, so that tiles start at the first `dilation` of
    every `2 dilation` pixels of a side.
    """
    n, h, w, c = x.shape
    d, rows, columns = dilation, _tiles(h, dilation), _tiles(w, dilation)
    sides = [(d, 2 * d * (rows + 1) - h), (d, 2 * d * (columns + 1) - w)]
    x = jnp.pad(x, [(0, 0), *sides, (0, 0)])

    def pixel(i: int, j: int) -> Array:
        """Pixel (i, j) of every tile: [n rows*d columns*d c]."""
        part = x[:, i * d : (i + 2 * rows) * d, j * d : (j + 2 * columns) * d]
        part = part.reshape(n, rows, 2 * d, columns, 2 * d, c)[:, :, :d, :, :d]
        return part.reshape(-1, c)

    pixels = _both(_pixels, [[pixel(i, j) for j in range(4)] for i in range(4)])
    taps = _both(_taps, [[kernel[i, j] for j in range(3)] for i in range(3)])
    contracted = (((1,), (1 if back else 0,)), ((), ()))
    products = [
        [jax.lax.dot_general(p, t, contracted) for p, t in zip(*pair, strict=True)]
        for pair in zip(pixels, taps, strict=True)
    ]
    results = _both(_results, products)
    y = jnp.stack([jnp.stack(row) for row in results])
    y = y.reshape(2, 2, n, rows, d, columns, d, -1)
    y = jnp.moveaxis(y, (0, 1), (2, 5))  # n, rows, 2, d, columns, 2, d, o
    return y.reshape(n, 2 * d * rows, 2 * d * columns, -1)[:, :h, :w]
