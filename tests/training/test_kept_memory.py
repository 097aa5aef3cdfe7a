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
FAULTS = """
import resource
import numpy as np
from attnseg.core import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**19).sum()  # 4 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
with memory.keep_freed():
    pass
faults()
print(faults())
"""
HOLES = """
import random
from attnseg.core import memory

def free():
    return memory._libc().mallinfo2().fordblks - memory._libc().mallinfo2().keepcost

random.seed(0)
with memory.keep_freed(), memory.keep_freed():
    blocks = [bytearray(random.randrange(2**11, 2**16)) for _ in range(8000)]
    piece, end = bytearray(3 * 10**6), bytearray(2**18)
    del blocks[::2], piece
    left = free()
    memory.ease()
    aside, found = free(), bytearray(3 * 10**6)
    piece = aside - free()
print(left >> 20, aside, piece, free() >> 20)
"""

keeps = hasattr(memory._libc(), "mallinfo2")
pytestmark = pytest.mark.skipif(not keeps, reason="needs glibc 2.33")


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


def test_blocks_that_glibc_reuses_are_reused_afterwards():
    status, output = Children("ATTNSEG_KEPT").run("-c", FAULTS)
    assert status == 0 and int(output) < 2000, output


def test_small_holes_are_set_aside_and_large_ones_used():
    status, output = Children("ATTNSEG_KEPT").run("-c", HOLES)
    assert status == 0, output
    left, aside, piece, after = map(int, output.split())
    # All that is left is the large hole, which the next block of its size fills.
    assert left > 120 and 3 * 10**6 < piece <= aside < 6 * 10**6 and after > left - 10


def test_the_limit_of_a_job(tmp_path, monkeypatch):
    (tmp_path / "cgroup").write_text("5:devices:/\n4:cpu,memory:/a/b\n0::/c\n")
    limits = {"": (tmp_path / "v2", "memory.max"), "memory": (tmp_path / "v1", "limit")}
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "LIMITS", limits)
    for folder in ("v1/a/b", "v2/c"):
        (tmp_path / folder).mkdir(parents=True)
    memory._machine_mb.cache_clear()
    whole = memory._machine_mb()
    for file, text, expected in (
        ("v2/c/memory.max", "max", whole),
        ("v1/limit", "9223372036854771712", whole),
        ("v2/memory.max", str(3 * 2**20), 3),
        ("v1/a/limit", str(2 * 2**20), 2),
    ):
        (tmp_path / file).write_text(text)
        memory._machine_mb.cache_clear()
        assert memory._machine_mb() == expected
    memory._machine_mb.cache_clear()
