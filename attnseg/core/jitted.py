"""`jax.jit` that knows how many programs it compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from attnseg.core.compiler import compiler_options


class Jitted:
    """A jitted function; compiled once for each combination of shapes, not part of another one.

    Attributes:
      shapes: the arguments' shapes of each program, in the order of compiling.
    """

    def __init__(self, function: Callable, **options: Any):
        self.shapes: list[tuple[tuple[int, ...], ...]] = []

        def traced(*args):
            # Runs when a program is made, not when it is called.
            leaves = jax.tree_util.tree_leaves(args)
            self.shapes.append(tuple(getattr(leaf, "shape", ()) for leaf in leaves))
            return function(*args)

        self._function = jax.jit(traced, compiler_options=compiler_options("infer"), **options)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    @property
    def compiled(self) -> int:
        """Programs so far."""
        return len(self.shapes)
