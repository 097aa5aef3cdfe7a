"""Pooling: windows with explicit padding, and averages over torch's adaptive bins.

The windows are XLA's own, but not the gradient of a maximum on a CPU. What writes ONNX replaces
`flax.linen.max_pool` and `avg_pool` by ones that know no explicit padding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.ops.platforms import by_platform, is_plain
from attnseg.ops.resize import is_static

Padding = Sequence[tuple[int, int]]  # before and after the rows, and the columns


def _windows(x: Array, first: float, combine, side: int, stride: int, padding: Padding) -> Array:
    around = [(0, 0), *padding, (0, 0)]
    shape, steps = (1, side, side, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, first, combine, shape, steps, around)


def max_pool(x: Array, side: int, stride: int, padding: Padding) -> Array:
    """Largest number of each `side` x `side` window of [n h w c]; padding never wins.

    The gradient goes to the first of equal numbers, row by row.
    """
    if is_plain():  # onnxruntime pools over three axes at most, and would get all four
        return _max_of_slices(x, side, stride, padding)
    return _max_pool(x, side, stride, tuple(padding))


def _largest(x: Array, side: int, stride: int, padding: Padding) -> Array:
    return _windows(x, -jnp.inf, jax.lax.max, side, stride, padding)


def _forward(x: Array, side: int, stride: int, padding: Padding):
    return _largest(x, side, stride, padding), x


def _backward(side: int, stride: int, padding: Padding, x: Array, grad: Array) -> tuple[Array]:
    function = functools.partial(_max_pool_gradient, side=side, stride=stride, padding=padding)
    return (by_platform(function, x, grad),)


_max_pool = jax.custom_vjp(_largest, nondiff_argnums=(1, 2, 3))
_max_pool.defvjp(_forward, _backward)


def _max_pool_gradient(
    x: Array, grad: Array, *, side: int, stride: int, padding: Padding, platform: str
) -> Array:
    """On a CPU each pixel looks where the windows that it is in have their largest number.

    XLA's own way, on a CPU, pools the coordinates along with the numbers and adds one by one.
    """
    if platform != "cpu":
        return jax.vjp(lambda x: _largest(x, side, stride, padding), x)[1](grad)[0]
    # Not by comparing with the maximum of the forward pass: XLA may compute `x` anew, with another
    # last digit.
    largest, *others = _slices(x, side, stride, padding)
    first = jnp.zeros(grad.shape, jnp.int32)
    for number, part in enumerate(others, 1):
        first = jnp.where(part > largest, number, first)
        largest = jnp.maximum(part, largest)
    # Padded pixel stride q + a is at offset a + stride m of window q - m, for each m that fits.
    more = (side - 1) // stride
    rows, columns = (length + more for length in grad.shape[1:3])
    around = [(0, 0), (more, more), (more, more), (0, 0)]
    first, grad = jnp.pad(first, around, constant_values=-1), jnp.pad(grad, around)

    def phase(a: int, b: int) -> Array:
        total = jnp.zeros((x.shape[0], rows, columns, x.shape[-1]), grad.dtype)
        for i, j in itertools.product(range(a, side, stride), range(b, side, stride)):
            top, left = more - i // stride, more - j // stride
            window = (slice(None), slice(top, top + rows), slice(left, left + columns))
            total += jnp.where(first[window] == i * side + j, grad[window], 0)
        return total

    phases = [jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)]
    height, width = rows * stride, columns * stride
    whole = jnp.stack(phases, 2).reshape(x.shape[0], height, width, -1)
    (above, _), (before, _) = padding
    _, h, w, _ = x.shape
    # Cuts the padding off, and adds zeros where the last windows end before the map does.
    sides = [(-above, above + h - height, 0), (-before, before + w - width, 0)]
    return jax.lax.pad(whole, jnp.zeros((), whole.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def _slices(x: Array, side: int, stride: int, padding: Padding) -> list[Array]:
    """For each offset in a window, row by row, that pixel of all windows."""
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)], constant_values=-jnp.inf)
    last = [length - side + 1 for length in x.shape[1:3]]
    offsets = itertools.product(range(side), repeat=2)
    return [x[:, i : last[0] + i : stride, j : last[1] + j : stride] for i, j in offsets]


def _max_of_slices(x: Array, side: int, stride: int, padding: Padding) -> Array:
    return functools.reduce(jnp.maximum, _slices(x, side, stride, padding))


def average_patches(x: Array, side: int, padding: Padding) -> Array:
    """Mean of each `side` x `side` patch of [n h w c]; padding does not count."""
    _, h, w, _ = x.shape
    total = functools.partial(
        _windows, first=0.0, combine=jax.lax.add, side=side, stride=side, padding=padding
    )
    return total(x) / total(jnp.ones((1, h, w, 1), x.dtype))


@functools.lru_cache(maxsize=256)
def pooling_bins(source: int, target: int) -> np.ndarray:
    """Membership 0/1 f32 [target source]: bin i holds floor(i s/t) to ceil((i+1) s/t) - 1.

    Bins overlap where `target` does not divide `source`, and repeat where it is larger.
    """
    index, position = np.arange(target)[:, None], np.arange(source)[None]
    low = index * source // target
    high = -(-(index + 1) * source // target)
    bins = ((low <= position) & (position < high)).astype(np.float32)
    bins.setflags(write=False)  # shared through the cache
    return bins


def _bins(source: int, target: int) -> Array | np.ndarray:
    """`pooling_bins`; of a symbolic size they are computed when the program runs."""
    if is_static(source):
        return pooling_bins(source, target)
    s = jnp.asarray(source, jnp.int32)
    index = np.arange(target, dtype=np.int32)[:, None]
    low, high = index * s // target, -(-(index + 1) * s // target)
    position = jnp.arange(source, dtype=jnp.int32)[None]
    return ((low <= position) & (position < high)).astype(jnp.float32)


def adaptive_average_pools(x: Array, sides: Sequence[int]) -> list[Array]:
    """Averages of [n h w c] over p x p bins, [n p p c] for each p of `sides`, in its dtype."""
    n, h, w, c = x.shape
    bins = [_bins(h, p) for p in sides]
    rows = np.concatenate(bins) if is_static(h) else jnp.concatenate(bins)
    # One product for the rows of all grids: x, the large operand, is read once. Zeros and ones
    # are exact in every dtype; the counts divide afterwards.
    batched = jnp.broadcast_to(jnp.asarray(rows, x.dtype), (n, *rows.shape))
    sums = jnp.matmul(
        batched, x.reshape(n, h, w * c), precision="highest", preferred_element_type=jnp.float32
    ).reshape(n, len(rows), w, c)
    pools = []
    for p, part in zip(sides, jnp.split(sums, np.cumsum(sides)[:-1], axis=1), strict=True):
        columns = _bins(w, p)
        counts = _bins(h, p).sum(1)[:, None] * columns.sum(1)[None]
        part = jnp.einsum("pw,nrwc->nrpc", columns, part, precision="highest")
        pools.append((part / counts[..., None]).astype(x.dtype))
    return pools
