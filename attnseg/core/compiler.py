"""What XLA is asked for beyond its defaults."""

from __future__ import annotations

import functools

import jax

# On a CPU XLA gives convolutions and products to YNNPACK first. It keeps a convolution of few
# channels or of a small map to one thread, where Eigen divides it; its products are faster where
# operands come transposed, as in gradients, and slower else.
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_CPU = {
    "infer": {_LIBRARY: "LIBRARY_FUSION_TYPE_REDUCE"},
    "train": {_LIBRARY: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}


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
