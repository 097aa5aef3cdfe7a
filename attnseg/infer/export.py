"""A network as one StableHLO program that runs on CPU, CUDA and TPU with nothing but JAX.

The program is a file of `jax.export`, weights included. Its batch is symbolic and, where the
network's arithmetic allows it, so are height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import UserError, check

PLATFORMS = ("cpu", "cuda", "tpu")
SMALLEST = 32  # pixels of a side; strides of the networks reach 32
TOLERANCE = 1e-4  # of verification, by the largest number of the reference
Serve = Callable[[Array], Array]  # images [n h w 3] -> result


class Sizes(NamedTuple):
    """Image sizes that a program takes.

    Attributes:
      shape: of the images, as `jax.export.symbolic_shape` reads it.
      multiple: of which both sides must be; 1: any, 0: `size` alone.
      size: (h, w) where it is fixed.
    """

    shape: str
    multiple: int
    size: tuple[int, int] | None = None

    def describe(self) -> str:
        """What may be given to the program, as a sentence."""
        if self.size is not None:
            return f"images of {self.size[0]}x{self.size[1]} pixels, any number of them"
        if self.multiple == 1:
            return f"images of any size from {SMALLEST}x{SMALLEST} pixels, any number of them"
        return f"images whose sides are multiples of {self.multiple} pixels, any number of them"

    def samples(self) -> list[tuple[int, int, int, int]]:
        """Three shapes [n h w 3] to verify at."""
        if self.size is not None:
            return [(n, *self.size, 3) for n in (1, 2, 3)]
        if self.multiple == 1:
            return [(1, 64, 64, 3), (2, 71, 97, 3), (1, 130, 67, 3)]
        step = self.multiple
        return [(1, 2 * step, 2 * step, 3), (2, 2 * step, 3 * step, 3), (1, 4 * step, step, 3)]

    def symbolic(self, dtype: Any) -> jax.ShapeDtypeStruct:
        """The images as shapes to trace with."""
        least = [f"{side} >= {SMALLEST}" for side in "hw"] if self.multiple == 1 else []
        shape = jax.export.symbolic_shape(self.shape, constraints=least)
        return jax.ShapeDtypeStruct(shape, dtype)


ANY = Sizes("n, h, w, 3", 1)
MULTIPLES = Sizes(f"n, {SMALLEST}*h, {SMALLEST}*w, 3", SMALLEST)


def fixed(size: tuple[int, int]) -> Sizes:
    """One image size."""
    return Sizes(f"n, {size[0]}, {size[1]}, 3", 0, (int(size[0]), int(size[1])))


@dataclasses.dataclass(frozen=True)
class Server:
    """A network with what comes before and after it, as a function of images.

    Attributes:
      serve: images [n h w 3] of `dtype` -> result.
      scores: the same images -> numbers [... k] whose largest is the label, where `serve` gives
        labels; None where its own numbers are to be compared.
      dtype: uint8 (RGB) or float32 (normalised).
    """

    serve: Serve
    scores: Serve | None
    dtype: Any

    def sample(self, shape: Sequence[int], seed: int = 0) -> np.ndarray:
        """Random images."""
        rng = np.random.default_rng(seed)
        if self.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        return rng.normal(size=shape).astype(np.float32)


def widest(attempt: Callable[[Sizes], Any], size: tuple[int, int] | None, fallback: tuple):
    """The result of `attempt` for the most general sizes it manages, and those sizes.

    Args:
      attempt: raises if the network's arithmetic cannot be done with such sizes.
      size: the one size that is wanted; None: as general as it goes.
      fallback: size to fix where neither free sizes nor multiples work.

    Raises:
      Exception: of `attempt` with a fixed size.
    """
    if size is not None:
        return attempt(fixed(size)), fixed(size)
    for sizes in (ANY, MULTIPLES):
        try:
            return attempt(sizes), sizes
        except (TypeError, ValueError, NotImplementedError):  # of jax: a size must be a number
            continue
    return attempt(fixed(fallback)), fixed(fallback)


def to_stablehlo(server: Server, sizes: Sizes) -> bytes:
    """The program for `PLATFORMS` in the format of `jax.export`."""
    exported = jax.export.export(jax.jit(server.serve), platforms=PLATFORMS)
    return bytes(exported(sizes.symbolic(server.dtype)).serialize())


def run_stablehlo(program: bytes) -> Serve:
    """What a serialised program computes, on the default device."""
    return jax.jit(jax.export.deserialize(bytearray(program)).call)


def largest_error(server: Server, run: Callable[[np.ndarray], Any], shape: Sequence[int]) -> float:
    """How far `run` is from the network on random images, by the largest number of the network.

    Of labels: how much less than the best score the network gives to the label chosen.
    """
    images = server.sample(shape)
    found = np.asarray(run(images))
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(server.scores or server.serve)(jnp.asarray(images)))
    scale = max(1.0, float(np.abs(expected).max()))
    if server.scores is not None:
        if found.shape != expected.shape[:-1]:
            return np.inf
        chosen = np.take_along_axis(expected, found[..., None].astype(np.int64), -1)[..., 0]
        return float((expected.max(-1) - chosen).max()) / scale
    if found.shape != expected.shape:
        return np.inf
    return float(np.abs(found - expected).max()) / scale


def verify(server: Server, run: Callable[[np.ndarray], Any], sizes: Sizes, what: str) -> float:
    """Compares with the network on three sizes; returns the largest error.

    Raises:
      UserError: an error beyond `TOLERANCE`, or a program that does not run.
    """
    worst = 0.0
    for shape in sizes.samples():
        try:
            error = largest_error(server, run, shape)
        except Exception as problem:  # whatever the runtime raises
            raise UserError(
                f"the {what} does not run on images {list(shape)} ({type(problem).__name__}: "
                f"{str(problem).splitlines()[0] if str(problem) else ''}); nothing was written."
            ) from problem
        check(
            error <= TOLERANCE,  # false for NaN
            f"the {what} differs from the network by {error:.1e} of its largest number on images "
            f"{list(shape)}, {TOLERANCE:g} is allowed; nothing was written.",
        )
        worst = max(worst, error)
    return worst
