"""Depthwise convolution with its own gradient.

XLA runs grouped convolution on the CPU through a generic loop. Three ways around it, all of the
same arithmetic up to the order of the sums:

- forward and gradient of the input: shifted multiply-adds, one vectorised pass;
- gradient of the kernel: sums of products for each tap, some rows at a time;
- where the grid is so small that most taps meet padding: a matrix for each channel.

Other platforms use XLA's grouped convolution.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.platforms import is_plain
from attnseg.ops.resize import is_static

_FOLD = 16  # products added in registers before they are reduced over pixels, at least
# Taps written out one by one in the kernel gradient. More run in a loop over rows: an eighth of
# the time to compile.
_UNROLLED_TAPS = 49
# Taps written out in the shifted sum. More run in a loop over the rows of the kernel: 21x21 takes a
# second to compile in place of a quarter of an hour. 11x11 would run longer.
_SHIFTED_TAPS = 200
_SMALL_GRID = 64  # pixels up to which a matrix for each channel is faster


def _same_padding(kernel: Array) -> list[tuple[int, int]]:
    return [(side // 2, side // 2) for side in kernel.shape[:2]]


def _pad(x: Array, kernel: Array) -> Array:
    return jnp.pad(x, [(0, 0), *_same_padding(kernel), (0, 0)])


def _accumulator(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _grouped_conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=_same_padding(kernel),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _kernel_gradient_conv(x: Array, grad: Array, kernel: Array) -> Array:
    return jax.linear_transpose(lambda k: _grouped_conv(x, k), kernel)(grad)[0]


def _shift_and_add(x: Array, kernel: Array) -> Array:
    _, h, w, _ = x.shape
    rows, columns = kernel.shape[:2]
    # A row too many, which is cut off without being computed. The cut keeps XLA from drawing the
    # sum into a fusion of its matrix library, for which it would write out every moved map.
    padded = jnp.pad(_pad(x, kernel), [(0, 0), (0, 1), (0, 0), (0, 0)])
    if rows * columns <= _SHIFTED_TAPS:
        total = sum(
            padded[:, i : i + h + 1, j : j + w] * kernel[i, j, 0]
            for i in range(rows)
            for j in range(columns)
        )
        return total[:, :h]

    def add(total: Array, i: Array) -> tuple[Array, None]:
        below = jax.lax.dynamic_slice_in_dim(padded, i, h + 1, axis=1)
        taps = jax.lax.dynamic_index_in_dim(kernel[:, :, 0], i, keepdims=False)
        return total + sum(below[:, :, j : j + w] * taps[j] for j in range(columns)), None

    zero = jnp.zeros((x.shape[0], h + 1, w, x.shape[-1]), _accumulator(x))
    return jax.lax.scan(add, zero, jnp.arange(rows))[0][:, :h].astype(x.dtype)


def _fold(h: int) -> tuple[int, int]:
    """Examples and rows of each of which the products are added before anything is reduced.

    Sixteen to twenty or so: with fewer than sixteen XLA's loop is not vectorised, far more find
    no registers. Rows beyond `h` are zeros, so as few as can be.
    """
    if h <= 12:
        return -(-_FOLD // h), h
    return 1, min(range(_FOLD, _FOLD + 5), key=lambda rows: (-(-h // rows) * rows, rows))


def _kernel_gradient_rows(x: Array, grad: Array, kernel: Array) -> Array:
    """Sums over pixels of ``x`` moved by each tap times ``grad``, some rows at a time.

    The products of rows are added elementwise, contiguous and in registers, and what is left, one
    row, is summed by a product with ones. The rows stay in the cache for all taps.
    """
    n, h, w, c = x.shape
    rows, columns = kernel.shape[:2]
    examples, fold = _fold(h)
    bands = -(-h // fold)
    beyond = [(0, -n % examples), (0, bands * fold - h), (0, 0), (0, 0)]
    padded, grad = jnp.pad(_pad(x, kernel), beyond), jnp.pad(grad, beyond)
    ones = jnp.ones((w,), x.dtype)

    def tap(part: Array, part_grad: Array, i: int, j: int) -> Array:
        total = sum(
            part[e, i + r, j : j + w] * part_grad[e, r]
            for e in range(examples)
            for r in range(fold)
        )
        return jnp.matmul(ones, total, precision="highest", preferred_element_type=_accumulator(x))

    def piece(carry: Array, index: Array) -> tuple[Array, None]:
        start = (index // bands * examples, index % bands * fold, 0, 0)
        shape = (examples, fold + rows - 1, w + columns - 1, c)
        part = jax.lax.dynamic_slice(padded, start, shape)
        part_grad = jax.lax.dynamic_slice(grad, start, (examples, fold, w, c))

        def row(i: Array) -> Array:
            moved = jax.lax.dynamic_slice_in_dim(part, i, fold, axis=1)
            return jnp.stack([tap(moved, part_grad, 0, j) for j in range(columns)])

        if rows * columns <= _UNROLLED_TAPS:
            taps = [tap(part, part_grad, i, j) for i in range(rows) for j in range(columns)]
            taps = jnp.stack(taps)
        else:
            taps = jax.lax.map(row, jnp.arange(rows))
        return carry + taps.reshape(kernel.shape), None

    zero = jnp.zeros(kernel.shape, _accumulator(x))
    pieces = jnp.arange(padded.shape[0] // examples * bands)
    return jax.lax.scan(piece, zero, pieces)[0].astype(kernel.dtype)


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


def _kernel_gradient_matrix(x: Array, grad: Array, kernel: Array) -> Array:
    like = jax.ShapeDtypeStruct(kernel.shape, _accumulator(x))
    pairs = jnp.einsum(
        "cnq,cnp->cqp",
        _by_channel(x),
        _by_channel(grad),
        precision="highest",
        preferred_element_type=like.dtype,
    )
    transposed = jax.linear_transpose(lambda k: _matrices(k, *x.shape[1:3]), like)
    return transposed(pairs)[0].astype(kernel.dtype)


def _pays_as_matrix(x: Array, kernel: Array) -> bool:
    """Whether a matrix of each channel takes less time on a CPU than sums over taps.

    Its products are three to four times as fast, but it meets every pair of pixels, and making it
    takes as long as using it on some examples.
    """
    n, h, w, _ = x.shape
    if not is_static(n, h, w):  # of a program exported for any size
        return False
    pixels, taps = h * w, kernel.shape[0] * kernel.shape[1]
    return pixels <= _SMALL_GRID and pixels <= 2 * taps and n * taps >= 8 * pixels


def _forward_cpu(x: Array, kernel: Array) -> Array:
    return (_matrix_conv if _pays_as_matrix(x, kernel) else _shift_and_add)(x, kernel)


def _kernel_gradient_cpu(x: Array, grad: Array, kernel: Array) -> Array:
    matrix = _pays_as_matrix(x, kernel)
    return (_kernel_gradient_matrix if matrix else _kernel_gradient_rows)(x, grad, kernel)


# What each platform runs, by measurement (docs/performance.md).
FORWARD = {"cpu": _forward_cpu, "default": _grouped_conv}
KERNEL_GRADIENT = {"cpu": _kernel_gradient_cpu, "default": _kernel_gradient_conv}


def depthwise_conv(x: Array, kernel: Array) -> Array:
    """Depthwise convolution, stride 1, zero padding that keeps the grid.

    Args:
      x: [n h w c].
      kernel: [kh kw 1 c] with odd kh and kw.

    Returns:
      [n h w c], in the dtype of `x`.
    """
    return _grouped_conv(x, kernel) if is_plain() else _depthwise_conv(x, kernel)


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
