"""What glibc is told about large blocks, in a process of its own."""

import pytest
from children import Children

from attnseg.core import memory

PROGRAM = """
import numpy as np
from attnseg.core import memory
memory.SHARE = {share}

def held():
    np.ones(2**25).sum()  # 256 MiB, freed at once
    return memory.resident_mb()

first = held()
with memory.keep_freed():
    kept = held()
    memory.ease()
    eased = held()
after = held()
print(*(round(value - first) for value in (kept, eased, after)))
"""

pytestmark = pytest.mark.skipif(memory._libc() is None, reason="needs glibc")


def held(share, **environment):
    status, output = Children("ATTNSEG_KEPT").run("-c", PROGRAM.format(share=share), **environment)
    assert status == 0, output
    return [int(value) for value in output.split()]


def test_blocks_are_kept_within_and_not_after():
    kept, eased, after = held(share=0.9)
    assert min(kept, eased) > 200 and after < 50


def test_not_where_memory_is_short():
    kept, eased, after = held(share=1e-9)
    assert kept > 200 and max(eased, after) < 50


@pytest.mark.parametrize("setting", [{"MALLOC_ARENA_MAX": "2"}, {"JAX_PLATFORMS": "cuda,cpu"}])
def test_not_against_the_environment_nor_beside_an_accelerator(setting):
    assert max(held(share=0.9, **setting)) < 50
