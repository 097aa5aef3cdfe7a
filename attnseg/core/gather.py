"""Words between the processes of a job on several hosts, through the coordination service.

Not through the devices: collectives over the network give up when a process comes late.
"""

from __future__ import annotations

import itertools

from jax._src import distributed  # the service's client has no public name

PATIENCE = 24 * 3600 * 1000  # ms to wait for a process that has more to do
PIECE = 1 << 20  # characters sent at once; a message of the service has a limit
_numbers = itertools.count()  # every process meets the others in the same order


def count() -> int:
    """Processes of the job; unlike `jax.process_count` this starts no device."""
    return distributed.global_state.num_processes


def index() -> int:
    """This process among them."""
    return distributed.global_state.process_id


def meet() -> None:
    """Waits until all processes are here."""
    if count() > 1:
        number = next(_numbers)
        distributed.global_state.client.wait_at_barrier(f"attnseg/gather/{number}", PATIENCE)


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order; every process must call it."""
    if count() == 1:
        return [text]
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    most = max(map(int, _exchange(str(len(pieces)))))
    pieces += [""] * (most - len(pieces))
    rows = [_exchange(piece) for piece in pieces]
    return ["".join(row[process] for row in rows) for process in range(count())]


def _exchange(text: str) -> list[str]:
    client, place = distributed.global_state.client, f"attnseg/gather/{next(_numbers)}"
    client.key_value_set(f"{place}/{index()}", text)
    others = range(count())
    texts = [client.blocking_key_value_get(f"{place}/{p}", PATIENCE) for p in others]
    meet()  # or one of them would find its text gone
    client.key_value_delete(f"{place}/{index()}")
    return texts
