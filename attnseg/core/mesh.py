"""Devices: one mesh with the axes ``data`` and ``fsdp``, and where arrays live on it.

A batch is split over both axes; parameters are copied over ``data`` and split over ``fsdp``.
Models know nothing of this: BatchNorm under `jax.jit` sees the global batch by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnseg.core.errors import check
from attnseg.core.gather import meet

DATA, FSDP = "data", "fsdp"


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh.

    Args:
      data: devices that hold different examples; -1 takes all that `fsdp` leaves.
      fsdp: devices that share one copy of the parameters.
      devices: default all.

    Raises:
      UserError: the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    total = len(devices)
    check(fsdp >= 1 and (data >= 1 or data == -1), f"mesh.data={data}, mesh.fsdp={fsdp}: use >= 1.")
    if data == -1:
        data = total // fsdp
    check(
        data * fsdp == total,
        f"mesh.data={data} x mesh.fsdp={fsdp} needs {data * fsdp} devices, {total} are there; "
        "mesh.data=-1 takes what is left.",
    )
    return Mesh(np.asarray(devices).reshape(data, fsdp), (DATA, FSDP))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over every device."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """Splits each array's longest divisible axis over ``fsdp``; small arrays are copied."""
    ways = mesh.shape[FSDP]

    def place(leaf: Any) -> NamedSharding:
        shape = tuple(leaf.shape)
        axes = [i for i, side in enumerate(shape) if side % ways == 0]
        if ways == 1 or not axes or np.prod(shape) < 2**14:
            return replicated(mesh)
        longest = max(axes, key=lambda i: shape[i])
        return NamedSharding(mesh, PartitionSpec(*([None] * longest), FSDP))

    return jax.tree_util.tree_map(place, tree)


def check_batch_size(mesh: Mesh, batch_size: int, what: str) -> None:
    """Raises `UserError` unless the global batch splits evenly over devices and processes."""
    ways = mesh.size
    check(
        batch_size >= 1 and batch_size % ways == 0,
        f"{what}={batch_size} does not split over {ways} devices; "
        f"use a multiple of {ways}, e.g. {max(1, round(batch_size / ways)) * ways}.",
    )


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's rows of a batch into global arrays split over the mesh."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of `mesh` that belong to this process, all along ``data``."""
    mine = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    return mesh if len(mine) == mesh.size else make_mesh(devices=mine)


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """Arrays that several processes share, in full on each device of this one.

    All processes of `mesh` must call it.
    """
    meet()
    whole = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(tree)
    mine = jax.tree_util.tree_map(lambda x: np.asarray(x.addressable_data(0)), whole)
    return jax.device_put(mine, replicated(local_mesh(mesh)))
