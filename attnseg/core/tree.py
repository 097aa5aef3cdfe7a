"""Names of a pytree's leaves ("a/b/c") and rules over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from attnseg.core.errors import check

T = TypeVar("T")


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns ``[("a/b/c", leaf), ...]`` in the tree's own order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [("/".join(_key_name(k) for k in path), leaf) for path, leaf in leaves]


def flat(tree: Any) -> dict[str, Any]:
    """Returns ``{"a/b/c": leaf}``."""
    return dict(named_leaves(tree))


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `flat` for trees of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_names(function, tree: Any) -> Any:
    """Maps ``function(name, leaf)`` over `tree`."""
    names = [name for name, _ in named_leaves(tree)]
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    return treedef.unflatten([function(n, x) for n, x in zip(names, leaves, strict=True)])


def match_rules(rules: Sequence[tuple[str, T]], tree: Any, what: str) -> Any:
    """Gives each leaf the value of the first rule whose regex is found in its name.

    Args:
      rules: ``(regex, value)`` pairs, tried in order with `re.search`.
      tree: a tree of parameters.
      what: what the rules decide, for the message.

    Raises:
      UserError: a leaf that no rule covers, or a rule that matches no leaf. Both are how a
        misspelt rule shows itself.
    """
    names = [name for name, _ in named_leaves(tree)]
    used: set[int] = set()
    uncovered: list[str] = []

    def value_of(name: str, _: Any) -> T | None:
        for index, (pattern, value) in enumerate(rules):
            if re.search(pattern, name):
                used.add(index)
                return value
        uncovered.append(name)
        return None

    values = map_with_names(value_of, tree)
    check(
        not uncovered,
        f"{what}: no rule covers {', '.join(uncovered[:5])}"
        f"{f' and {len(uncovered) - 5} more' if len(uncovered) > 5 else ''}; "
        'end the list with a rule ".*".',
    )
    idle = [p for i, (p, _) in enumerate(rules) if i not in used and not re.search(p, "")]
    idle = [p for p in idle if not any(re.search(p, n) for n in names)]
    check(not idle, f"{what}: rule {idle[:1]} matches none of the {len(names)} parameters.")
    return values


def count(tree: Any) -> int:
    """Number of scalars in a tree of arrays or of shapes."""
    total = 0
    for leaf in jax.tree_util.tree_leaves(tree):
        size = 1
        for side in leaf.shape:
            size *= side
        total += size
    return total
