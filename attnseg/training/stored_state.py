"""The arrays of a checkpoint: whether they fit a run, and reading them onto its devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from attnseg.core.errors import UserError, check
from attnseg.core.tree import flat

_SHOWN = 3  # names in a message


class DamagedError(UserError):
    """The arrays cannot be read; `args[0]` is a clause that says why."""


def reason(error: BaseException) -> str:
    """Kind and first line of an error, short enough for a sentence."""
    line = (str(error).strip().splitlines() or [""])[0][:100]
    return f"{type(error).__name__}{': ' if line else ''}{line}"


def saved_shapes(reader: ocp.Checkpointer, path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each array in the folder `path`, by its name in the state.

    Raises:
      DamagedError: the description of the arrays cannot be read.
    """
    try:
        found = reader.metadata(path)
        found = getattr(found, "item_metadata", found)
        found = flat(getattr(found, "tree", found))
    except Exception as error:  # a file that was never verified can raise anything
        raise DamagedError(f"its list of arrays cannot be read ({reason(error)})") from error
    shapes = {name: tuple(x.shape) for name, x in found.items() if hasattr(x, "shape")}
    if not shapes:  # Orbax finds none where it cannot read the list in the array files
        raise DamagedError("its arrays cannot be read (none is found)")
    return shapes


def check_fit(path: Path, saved: dict[str, tuple[int, ...]], target: Any) -> None:
    """Compares names and shapes of the saved arrays with those of `target`.

    Raises:
      UserError: they differ; names the first arrays that do.
    """
    wanted = {name: tuple(x.shape) for name, x in flat(target).items()}
    kinds = {
        "is not in the checkpoint": [name for name in wanted if name not in saved],
        "is in the checkpoint only": [name for name in saved if name not in wanted],
    }
    faults = []
    for what, names in kinds.items():
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            faults.append(f"{names[0]}{more} {what}")
    changed = [n for n in wanted if n in saved and saved[n] != wanted[n]]
    faults += [f"{n} is {saved[n]} there and {wanted[n]} here" for n in changed[:_SHOWN]]
    check(
        not faults,
        f"{path.parent} was saved with another model, optimizer or train.ema: "
        f"{'; '.join(faults)}. Use the configuration it was made with, or another --workdir.",
    )


def read_arrays(
    reader: ocp.Checkpointer, path: Path, target: Any, *, partial: bool, verified: bool
) -> Any:
    """Reads the arrays in the folder `path` as `target`'s shapes and shardings say.

    Args:
      partial: `target` names some of the arrays, not all.
      verified: the files are known to be as they were written.

    Raises:
      UserError: the arrays do not fit, or are whole and yet cannot be read by these libraries.
      DamagedError: the arrays of a checkpoint that was not verified cannot be read.
    """
    saved = saved_shapes(reader, path)
    if partial:
        kept = tuple(f"{name}/" for name in target)
        saved = {name: shape for name, shape in saved.items() if name.startswith(kept)}
    check_fit(path, saved, target)
    arguments = ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=partial,
    )
    try:
        return reader.restore(path, args=arguments)
    except Exception as error:  # what a damaged file makes tensorstore and Orbax raise
        if not verified:
            raise DamagedError(f"its arrays cannot be read ({reason(error)})") from error
        raise UserError(
            f"{path.parent} is as it was written, but these versions of Orbax and JAX cannot read "
            f"it ({reason(error)}); install those in its {path.parent / 'meta' / 'metadata'}."
        ) from error
