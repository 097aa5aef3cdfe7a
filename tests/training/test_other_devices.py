"""A checkpoint is read onto other devices and other meshes than it was saved from."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from attnseg.core.mesh import make_mesh, state_shardings
from attnseg.core.tree import flat
from attnseg.training.checkpoint import Checkpoints
from attnseg.training.state import create_state

TESTS = Path(__file__).parents[1]


def wide_state():
    """With arrays large enough to be split over ``fsdp``, in each of their axes."""
    rng = np.random.default_rng(0)
    shapes = {"rows": (256, 64), "columns": (3, 8192), "odd": (129, 131), "small": (5,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state = create_state({"params": params}, optax.adamw(0.1), ema=True)
    return state.replace(step=np.int32(7))


def save_from(workdir, data, fsdp):
    mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    state = wide_state()
    state = jax.device_put(state, state_shardings(mesh, state))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, {"batches": 7}, {"miou": 0.5})
    checkpoints.close()


def restored_onto(workdir, data, fsdp):
    """Whether every number is right and every array is split as the mesh asks."""
    mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    expected = wide_state()
    shardings = state_shardings(mesh, expected)
    checkpoints = Checkpoints(workdir)
    shapes = jax.eval_shape(wide_state)
    state = checkpoints.restore_newest(shapes, shardings, lambda line: None)
    checkpoints.close()
    placed = flat(shardings)
    values = flat(expected)
    return all(
        np.array_equal(np.asarray(array), values[name]) and array.sharding == placed[name]
        for name, array in flat(state).items()
    )


MESHES = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint from each mesh; the one of eight devices from a process that has so many."""
    folder = tmp_path_factory.mktemp("meshes")
    for data, fsdp in MESHES:
        save_from(folder / f"{data}x{fsdp}", data, fsdp)
    run_with(8, f"t.save_from({str(folder / '2x4')!r}, 2, 4)")
    return folder


def run_with(devices, line):
    code = f"""
import sys
sys.path[:0] = {[str(TESTS), str(TESTS / "training")]!r}
import conftest, os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count={devices}"
import test_other_devices as t
{line}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("saved", [*MESHES, (2, 4)])
def test_saved_from_one_mesh_and_read_onto_the_others(folder, saved):
    for data, fsdp in MESHES:
        assert restored_onto(folder / f"{saved[0]}x{saved[1]}", data, fsdp), (saved, data, fsdp)


def test_read_by_a_process_with_eight_devices(folder):
    lines = [
        f"assert t.restored_onto({str(folder / saved)!r}, {data}, {fsdp})"
        for saved in ("1x1", "1x4", "2x4")
        for data, fsdp in ((8, 1), (2, 4), (1, 8))
    ]
    run_with(8, "\n".join(lines))
