"""The processes of a job on several hosts: finding each other, waiting, a few words, the end.

Everything here goes through the coordination service of `jax.distributed`, not through the devices.
With one process nothing waits and nothing is sent.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name

from attnseg.core.errors import UserError, check
from attnseg.core.gather import count, gather, index, meet

__all__ = [
    "compiled_together",
    "count",
    "describe",
    "gather",
    "index",
    "leave",
    "main_first",
    "meet",
    "start",
]

FAREWELL = 20.0  # seconds to wait for the others before ending on an error
_POLL = 1.0  # seconds between two looks for an error elsewhere
_FAILED = "attnseg/failed"
_leaving = threading.Lock()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Lets process 0 run the block first, the others afterwards: it leaves files they then find."""
    if index() != 0:
        meet()
    yield
    if index() == 0:
        meet()


def compiled_together(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted `function` that all processes have compiled before any of them runs it.

    Collectives over the network give up when a process comes late (on CPUs after 30 s).
    """
    if count() == 1:
        return function
    known = set()

    def call(*arguments: Any) -> Any:
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree_util.tree_leaves(arguments))
        if shapes not in known:
            function.lower(*arguments).compile()
            meet()
            known.add(shapes)
        return function(*arguments)

    return call


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the other processes, if arguments or environment describe a job of several.

    The first of these that is there counts: the arguments; ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; torchrun's ``MASTER_ADDR``, ``MASTER_PORT``,
    ``WORLD_SIZE`` and ``RANK``; a step of SLURM with several tasks.

    Args:
      coordinator: HOST:PORT where process 0 listens, or "auto": JAX asks the cluster (SLURM,
        Open MPI, TPU pods).
      processes, process: how many there are, and which one this is.

    Raises:
      UserError: an incomplete or impossible description.
    """
    settings = describe(os.environ, coordinator, processes, process)
    if settings is None:
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are attnseg's to handle
    try:
        jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of the job did not find each other ({str(error).splitlines()[0]}); "
            "check that all were started, with one address that they can reach (see "
            "docs/many_hosts.md)."
        ) from error
    if count() > 1:
        _watch_for_errors()


def describe(
    environment: Any,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> dict[str, Any] | None:
    """What `start` gives to `jax.distributed.initialize`; None for a process on its own.

    Raises:
      UserError: see `start`.
    """
    flags = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
    if coordinator == "auto":
        return {}
    if any(value is not None for value in flags.values()):
        missing = [f"--{name}" for name, value in flags.items() if value is None]
        check(not missing, f"a job of several processes needs {' and '.join(missing)} too.")
        return _checked(coordinator, processes, process)
    described = _from(
        environment, ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    )
    if described:
        address, total, number = described
        total, number = _number(total, "JAX_NUM_PROCESSES"), _number(number, "JAX_PROCESS_ID")
        return _checked(address, total, number)
    if environment.get("WORLD_SIZE", "1") != "1" and "RANK" in environment:
        return _from_torchrun(environment)
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    tasks = environment.get("SLURM_NTASKS", "1")
    return {} if tasks != "1" and all(name in environment for name in slurm) else None


def _from(environment: Any, names: tuple[str, ...]) -> list[str] | None:
    """The values of variables of which either all or none are set."""
    missing = [name for name in names if name not in environment]
    check(
        len(missing) in (0, len(names)),
        f"a job of several processes needs {', '.join(missing)} too, beside "
        f"{', '.join(n for n in names if n not in missing)}.",
    )
    return None if missing else [environment[name] for name in names]


def _from_torchrun(environment: Any) -> dict[str, Any]:
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    host, port, total, number = _from(environment, names)
    # torchrun itself listens at that port, where its variable says so.
    taken = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = f"{host}:{_number(port, 'MASTER_PORT') + taken}"
    settings = _checked(address, _number(total, "WORLD_SIZE"), _number(number, "RANK"))
    if environment.get("LOCAL_WORLD_SIZE", "1") != "1":  # one device for each process of a host
        local = _number(environment.get("LOCAL_RANK", ""), "LOCAL_RANK")
        settings["local_device_ids"] = [local]
    return settings


def _number(text: str, name: str) -> int:
    check(text.isdigit(), f'{name}="{text}" is not a number; use 0, 1, ...')
    return int(text)


def _checked(address: str, total: int, number: int) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    check(
        bool(host) and port.isdigit() and 0 < int(port) < 65536,
        f'"{address}" is not an address; use HOST:PORT of process 0, or auto.',
    )
    check(total >= 1, f"a job of {total} processes is none; use 1 or more.")
    check(
        0 <= number < total,
        f"process {number} of {total} does not exist; they are numbered 0 to {total - 1}.",
    )
    return dict(coordinator_address=address, num_processes=total, process_id=number)


def leave(message: str, status: int) -> None:
    """Ends this process on an error, and the others with it; with one process it just returns.

    They might wait for this one in a collective, and JAX aborts those whose coordinator is gone:
    so they are told first, and process 0 goes last.
    """
    if count() > 1:
        _leave(f"{status} process {index()} stopped: {message}", status)


def _leave(text: str, status: int) -> None:
    _leaving.acquire()  # held until the end: one thread does it
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # the first error is the one to be told
        _client().key_value_set(_FAILED, text)
    with contextlib.suppress(Exception):
        _client().wait_at_barrier("attnseg/leave", int(1000 * FAREWELL))
    if index() == 0:
        time.sleep(2 * _POLL)
    os._exit(status)


def _watch_for_errors() -> None:
    """Starts a thread that ends this process when another one has failed."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL):
            try:
                text = _client().key_value_try_get(_FAILED)
            except Exception:
                continue  # nothing there
            if _leaving.locked() or ended.is_set():
                return
            status, _, told = text.partition(" ")
            print(f"error: {told}", file=sys.stderr)
            _leave(text, int(status))

    thread = threading.Thread(target=watch, name="attnseg-errors", daemon=True)
    thread.start()

    def stop() -> None:  # before JAX closes the service, which it does at exit as well
        ended.set()
        thread.join()

    atexit.register(stop)


def _client() -> Any:
    return distributed.global_state.client
