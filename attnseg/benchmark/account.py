"""What XLA says of a program: its memory, bytes and floating-point operations."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
from jax.sharding import SingleDeviceSharding


def compiled(
    make: Callable[[], jax.stages.Compiled],
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """What `make` traces and compiles, with its `memory` and the seconds it took, ``compile_s``."""
    begun = time.perf_counter()
    program = make()
    return program, {"compile_s": time.perf_counter() - begun} | memory(program)


def memory(program: jax.stages.Compiled) -> dict[str, float]:
    """Bytes on one device: ``memory`` in all, ``temporary`` those that live during the program
    only, ``kept`` arguments and results; nothing where XLA tells none.
    """
    sizes = program.memory_analysis()
    if sizes is None:
        return {}
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return {
        "memory": kept - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes,
        "temporary": sizes.temp_size_in_bytes,
        "kept": kept,
    }


def work(program: jax.stages.Compiled) -> dict[str, float]:
    """``flops`` and ``bytes`` of a program compiled for a CPU; a loop's body counts once."""
    cost = program.cost_analysis() or {}
    return {"flops": cost.get("flops", 0.0), "bytes": cost.get("bytes accessed", 0.0)}


def work_before_compilation(function: Callable, args: tuple, platform: str) -> dict[str, float]:
    """``flops`` of a function as it is given to the compiler of `platform`.

    In a program compiled for a GPU matrix products and convolutions are calls of libraries, which
    XLA counts as nothing.

    Args:
      args: arrays or `jax.ShapeDtypeStruct`.
      platform: as `jax.jit(...).trace(...).lower` takes it, "cuda" for instance.

    Returns:
      Nothing where JAX is kept from the CPU.
    """
    try:  # programs placed on a GPU are counted after compilation only
        place = SingleDeviceSharding(jax.devices("cpu")[0])
    except RuntimeError:
        return {}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
    lowered = jax.jit(function).trace(*like).lower(lowering_platforms=(platform,))
    return {"flops": (lowered.cost_analysis() or {}).get("flops", 0.0)}
