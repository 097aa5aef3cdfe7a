"""GPUs that a program can be compiled for where there is none.

XLA needs a description of the GPU and its CUDA compiler (`pip install 'attnseg[cuda12]'`), not the
GPU. The account of a program's memory leaves out the scratch memory of algorithms that are chosen
by trial where the GPU is.
"""

from __future__ import annotations

import jax
from jax.experimental import topologies

from attnseg.core.errors import UserError, lookup

# NVIDIA's data sheets and CUDA's tables of compute capabilities.
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{name}"
"""
TARGETS = {
    "a100": {
        "name": "NVIDIA A100 80GB",
        "capability": 8,
        "cores": 108,
        "units": 64,
        "clock": 1.41,
        "shared": 167936,
        "optin": 166912,
        "cache": 41943040,
        "bandwidth": 2039000000000,
        "memory": 85000000000,
    },
    "h100": {
        "name": "NVIDIA H100 80GB",
        "capability": 9,
        "cores": 132,
        "units": 128,
        "clock": 1.98,
        "shared": 233472,
        "optin": 232448,
        "cache": 52428800,
        "bandwidth": 3352000000000,
        "memory": 85000000000,
    },
}
_NO_TRIAL = {"xla_gpu_autotune_level": 0}  # a trial of algorithms needs the GPU


def target(name: str) -> jax.Device:
    """A device to compile for, and for nothing else.

    What JAX runs in this process runs on the CPU from then on: a CUDA that finds no GPU gives up.

    Args:
      name: a name of `TARGETS`.

    Raises:
      UserError: there is no such GPU here, or JAX is installed without CUDA.
    """
    description = _DESCRIPTION.format(**lookup(TARGETS, name, "GPU to compile for"))
    jax.config.update("jax_platforms", "cpu")
    try:
        found = topologies.get_topology_desc(
            name, "cuda", target_config=description, topology="1x1x1"
        )
    except NotImplementedError as error:
        raise UserError(
            f"compiling for {name} needs JAX with CUDA; pip install 'attnseg[cuda12]'."
        ) from error
    return found.devices[0]


def compile_there(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program for the device of the arguments, a `target`."""
    try:
        return lowered.compile(compiler_options=_NO_TRIAL)
    except jax.errors.JaxRuntimeError:
        # Triton's tiles of matrix products are found by trial; its guess does not fit every size.
        options = {**_NO_TRIAL, "xla_gpu_enable_triton_gemm": False}
        return lowered.compile(compiler_options=options)
