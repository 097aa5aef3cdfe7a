"""Linear map of the last axis, with its own gradient of the matrix.

That gradient is a product over all pixels, ``x' g``. XLA transposes its first operand on the CPU
element by element, which takes longer than the product; so the narrower operand comes first where
that moves fewer numbers.
"""

from __future__ import annotations

import jax
from jax import Array

from attnseg.ops.platforms import by_platform, is_plain
from attnseg.ops.resize import is_static


def _product(x: Array, kernel: Array) -> Array:
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _kernel_gradient(x: Array, grad: Array, *, platform: str) -> Array:
    if platform == "cpu":
        # The barrier keeps XLA from turning the product round again.
        return jax.lax.optimization_barrier(grad.T @ x).T
    return x.T @ grad


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    c, o = kernel.shape
    x_grad = _product(grad, kernel.T)
    x, grad = x.reshape(-1, c), grad.reshape(-1, o)
    # Turning `grad` and the result moves fewer numbers than turning `x`.
    turns = is_static(x.shape[0]) and x.shape[0] * (c - o) > c * o
    kernel_grad = by_platform(_kernel_gradient, x, grad) if turns else x.T @ grad
    return x_grad, kernel_grad


_linear = jax.custom_vjp(_product)
_linear.defvjp(_forward, _backward)


def linear_map(x: Array, kernel: Array) -> Array:
    """[... c] times [c o]: [... o], in the dtype of both."""
    return _product(x, kernel) if is_plain() else _linear(x, kernel)
