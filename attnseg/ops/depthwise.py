"""Depthwise convolution with its own gradient.

XLA runs grouped convolution on the CPU through a generic loop. The same arithmetic as shifted
multiply-adds is one vectorised pass, and the kernel gradient becomes vectorised sums closed by a
matrix product. Other platforms use XLA's grouped convolution.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

_BATCH_FOLD = 8  # examples summed in registers before the kernel gradient is reduced
# Taps written out one by one in the kernel gradient. More run in a loop over rows: at 11x11 that
# takes half as long again to run and an eighth of the time to compile.
_UNROLLED_TAPS = 49


_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """What is traced within is one grouped convolution on all platforms, without own gradient.

    For formats such as ONNX, which know neither a choice by platform nor shifted sums.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether `plain_convolutions` is in force."""
    return _plain.get()


def _same_padding(kernel: Array) -> list[tuple[int, int]]:
    return [(side // 2, side // 2) for side in kernel.shape[:2]]


def _pad(x: Array, kernel: Array) -> Array:
    return jnp.pad(x, [(0, 0), *_same_padding(kernel), (0, 0)])


def _grouped_conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=_same_padding(kernel),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _shift_and_add(x: Array, kernel: Array) -> Array:
    _, h, w, _ = x.shape
    rows, columns = kernel.shape[:2]
    padded = _pad(x, kernel)
    return sum(
        padded[:, i : i + h, j : j + w] * kernel[i, j, 0]
        for i in range(rows)
        for j in range(columns)
    )


def _kernel_gradient_conv(x: Array, grad: Array, kernel: Array) -> Array:
    return jax.linear_transpose(lambda k: _grouped_conv(x, k), kernel)(grad)[0]


def _kernel_gradient_sums(x: Array, grad: Array, kernel: Array) -> Array:
    n, h, w, c = x.shape
    rows, columns = kernel.shape[:2]
    fold = max(f for f in range(1, _BATCH_FOLD + 1) if n % f == 0)
    padded = _pad(x, kernel)
    padded = padded.reshape(fold, n // fold, *padded.shape[1:])
    grad = grad.reshape(fold, n // fold, h, w, c)

    def tap(part: Array, i: int, j: int) -> Array:
        # Summing `fold` examples elementwise first keeps the loop vectorised; the product with a
        # row of ones reduces the rest faster than XLA's reduction over leading axes.
        product = sum(part[f, :, i : i + h, j : j + w] * grad[f] for f in range(fold))
        product = product.reshape(-1, c)
        ones = jnp.ones((1, product.shape[0]), product.dtype)
        return jnp.matmul(ones, product, precision="highest", preferred_element_type=jnp.float32)

    def row(i: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(padded, i, h, axis=2)
        return jnp.stack([tap(part, 0, j) for j in range(columns)])

    if rows * columns <= _UNROLLED_TAPS:
        taps = jnp.stack([tap(padded, i, j) for i in range(rows) for j in range(columns)])
    else:
        taps = jax.lax.map(row, jnp.arange(rows))
    return taps.reshape(kernel.shape).astype(kernel.dtype)


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
    return jax.lax.platform_dependent(x, kernel, cpu=_shift_and_add, default=_grouped_conv)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_conv(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    # Correlating the gradient with the flipped kernel is the transpose of a "same" convolution.
    grad_x = _depthwise_conv(grad, kernel[::-1, ::-1])
    grad_kernel = jax.lax.platform_dependent(
        x, grad, kernel, cpu=_kernel_gradient_sums, default=_kernel_gradient_conv
    )
    return grad_x, grad_kernel


_depthwise_conv.defvjp(_forward, _backward)
