"""Where compiled programs are kept."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax, jax.numpy as jnp
from attnseg.recipe.run import use_compilation_cache
use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
program = jax.jit(lambda x: 2 * jnp.exp(x)).lower(jnp.ones((2048, 2048))).compile()
print(program.as_text().count("outer_dimension_partitions"))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two cores"
)
def test_a_program_for_one_core_is_not_taken_for_two(tmp_path):
    """JAX's key of a program knows nothing of the cores that XLA divides it for."""
    left_out = ("XLA_FLAGS", "NPROC", "PJRT_NPROC")
    env = {k: v for k, v in os.environ.items() if k not in left_out and not k.startswith("JAX_")}
    env |= {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}

    def parts(cores: int, **more: str) -> int:
        command = [sys.executable, "-c", PROGRAM, str(cores)]
        done = subprocess.run(command, env=env | more, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert [parts(1), parts(2), parts(2, NPROC="1"), parts(2)] == [0, 1, 0, 1]
    kept = {
        folder.name for folder in (tmp_path / ".cache/attnseg").iterdir() if any(folder.iterdir())
    }
    assert kept == {"xla_1_cores", "xla_2_cores"}
