"""What the machine can do: bytes copied and numbers multiplied in a second, measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _best(run: Callable[..., jax.Array], *args: jax.Array, repeats: int) -> float:
    """Seconds of the fastest call; each call takes the result of the last as its first argument."""
    first, *others = args
    seconds = []
    for _ in range(repeats + 1):  # the first one compiles
        start = time.perf_counter()
        first = jax.block_until_ready(run(first, *others))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(repeats: int = 5) -> dict[str, float]:
    """``bytes`` read and written a second by a pass over memory, ``flops/DTYPE`` of a product.

    The pass is in place: on a CPU the pages of a new array cost several times its copying.
    """
    large = jax.default_backend() != "cpu"
    numbers = jnp.zeros(1 << (28 if large else 24), jnp.float32)
    moved = 2 * numbers.nbytes
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    limits = {"bytes": moved / _best(add, numbers, repeats=repeats)}
    side = 8192 if large else 1536
    product = jax.jit(jnp.matmul)
    for dtype in ("float32", "bfloat16") if large else ("float32",):
        matrix = jnp.full((side, side), 1 / side, dtype)
        seconds = _best(product, matrix, matrix, repeats=repeats)
        limits[f"flops/{dtype}"] = 2 * side**3 / seconds
    return limits


def share(facts: dict[str, float], seconds: float, limits: dict[str, float], dtype: str):
    """The share of the roofline a program reached, 0..1, or None where nothing is known.

    The least time is the longer of moving its bytes and doing its operations; both as XLA counts
    them, which takes a loop's body for one pass: an estimate from below where loops are.
    """
    rate = limits.get(f"flops/{dtype}") or limits.get("flops/float32")
    if not rate or not facts.get("flops"):
        return None
    least = max(facts["flops"] / rate, facts.get("bytes", 0.0) / limits["bytes"])
    return least / seconds
