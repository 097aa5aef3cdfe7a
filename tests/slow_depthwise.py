"""Depthwise convolution and its gradients in NumPy, by their definition."""

import numpy as np


def slow(x, kernel):
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, [(0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])
    out = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + rows, j : j + columns]
            out[:, i, j] = np.einsum("nijc,ijc->nc", window, kernel[:, :, 0])
    return out


def slow_gradients(x, kernel, grad):
    """Of ``sum(slow(x, kernel) * grad)``: what each product of the definition adds to each."""
    rows, columns = kernel.shape[:2]
    sides = [(0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)]
    padded, grad_padded = np.pad(x, sides), np.pad(np.zeros_like(x), sides)
    grad_kernel = np.zeros_like(kernel)
    h, w = x.shape[1:3]
    for i in range(rows):
        for j in range(columns):
            grad_kernel[i, j, 0] = np.sum(padded[:, i : i + h, j : j + w] * grad, (0, 1, 2))
            grad_padded[:, i : i + h, j : j + w] += grad * kernel[i, j, 0]
    return grad_padded[:, rows // 2 :, columns // 2 :][:, :h, :w], grad_kernel
