"""What the machine can do: bytes copied and numbers multiplied in a second, measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnseg.benchmark.contest import environment
from attnseg.benchmark.contestant import fastest
from attnseg.core.errors import UserError


def _least(run: Callable[..., jax.Array], *args: jax.Array, repeats: int) -> float:
    """Seconds of the fastest call; each call takes the result of the last as its first argument."""
    first, *others = args

    def once() -> jax.Array:
        nonlocal first
        first = run(first, *others)
        return first

    return fastest(once, jax.block_until_ready, jax.default_backend(), repeats)


def measure(repeats: int = 5) -> dict[str, float]:
    """``bytes`` read and written a second by a pass over memory, ``flops/DTYPE`` of a product.

    The pass is in place: on a CPU the pages of a new array cost several times its copying. On a
    GPU float32 products are TF32, as XLA computes them unless told otherwise.
    """
    large = jax.default_backend() != "cpu"
    numbers = jnp.zeros(1 << (28 if large else 24), jnp.float32)
    moved = 2 * numbers.nbytes
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    limits = {"bytes": moved / _least(add, numbers, repeats=repeats)}
    side = 8192 if large else 1536
    product = jax.jit(jnp.matmul)
    for dtype in ("float32", "bfloat16") if large else ("float32",):
        matrix = jnp.full((side, side), 1 / side, dtype)
        seconds = _least(product, matrix, matrix, repeats=repeats)
        limits[f"flops/{dtype}"] = 2 * side**3 / seconds
    return limits


def measure_apart() -> tuple[str, dict[str, float]]:
    """Platform and `measure` of a process of its own, which leaves the device to the contestants.

    Raises:
      UserError: the process ended without them.
    """
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise UserError(f"what the machine can do could not be measured: {said[-1]}")
    platform, limits = json.loads(done.stdout.splitlines()[-1])
    return platform, limits


def share(facts: dict[str, float], seconds: float, limits: dict[str, float], dtype: str):
    """The share of the roofline a program reached, 0..1, or None where nothing is known.

    The least time is the longer of moving its bytes and doing its operations, see `account`; a
    loop's body counts for one pass: an estimate from below where loops are.
    """
    rate = limits.get(f"flops/{dtype}") or limits.get("flops/float32")
    if not rate or not facts.get("flops"):
        return None
    least = max(facts["flops"] / rate, facts.get("bytes", 0.0) / limits["bytes"])
    return least / seconds


if __name__ == "__main__":
    print(json.dumps([jax.default_backend(), measure()]))
