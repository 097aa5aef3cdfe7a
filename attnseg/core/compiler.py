"""What XLA is asked for beyond its defaults, and how many programs it has compiled."""

from __future__ import annotations

import functools
import os

import jax

# On a CPU XLA gives convolutions and products to YNNPACK first. It keeps a convolution of few
# channels or of a small map to one thread, where Eigen divides it; its products are faster where
# operands come transposed, as in gradients, and slower else.
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_CPU = {
    "infer": {_LIBRARY: "LIBRARY_FUSION_TYPE_REDUCE"},
    "train": {_LIBRARY: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}
_COMPILED = "/jax/core/compile/backend_compile_duration"
_THREAD = "jax_cpu_enable_async_dispatch"


def run_in_caller() -> None:
    """Has a CPU run each program in the thread that calls it; call this before jax starts.

    A training step takes 4 to 6 % less than in the thread that jax hands it to else. The caller can
    do nothing meanwhile, which suits the training loop: other threads load its batches. It holds
    for the rest of the process. Programs for several devices of a process keep threads of their
    own, and the environment's ``JAX_CPU_ENABLE_ASYNC_DISPATCH`` has the last word.
    """
    if _THREAD.upper() not in os.environ:
        jax.config.update(_THREAD, False)


@functools.cache
def compiler_options(mode: str) -> dict[str, str]:
    """`compiler_options` of `jax.jit` for a network, `mode` "infer" or "train"."""
    if jax.default_backend() != "cpu":
        return {}
    options = _CPU[mode]
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA, without this option
        return {}
    return options


class _Counter:
    """Counts programs from the moment it is made."""

    def __init__(self):
        self.total = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_) -> None:
        self.total += event == _COMPILED


# One for the whole process: JAX has no public way to take a listener off again.
_counter = functools.cache(_Counter)


def compilations() -> int:
    """Programs compiled since this was first called, cached ones included."""
    return _counter().total
