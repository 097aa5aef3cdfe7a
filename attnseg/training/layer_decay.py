"""Learning rates that fall from the head to the first layer of the backbone."""

from __future__ import annotations

import re
from typing import Any

from attnseg.core.errors import check
from attnseg.core.tree import map_with_names, named_leaves

_BACKBONE = "backbone/"
_BLOCK = re.compile(r"backbone/stage(\d+)_block(\d+)/")
_STAGE = re.compile(r"backbone/stage(\d+)_(\w+)/")
AFTER_BLOCKS = "norm"  # what a stage has behind its last block; all else lies before its first


def layer_factors(params: Any, decay: float) -> Any:
    """Factors of the learning rate by depth: layer-wise decay, as for BEiT (arXiv:2106.08254).

    With L blocks in the backbone, block b = 1..L (through all stages) has ``decay^(L + 1 - b)``.
    What leads into a stage (``stage2_embed``, ``stage2_down``) goes with its first block, what
    ends one (``stage2_norm``) with its last; what comes before the first block (``stem``,
    ``embed``, ``stage1_embed``) has ``decay^(L + 1)``; heads have 1.

    Args:
      params: parameters or their shapes, for their names.
      decay: above 0, at most 1.

    Returns:
      a float for each leaf of `params`.

    Raises:
      UserError: a decay out of range, or a network without ``backbone/stageI_blockJ``.
    """
    check(0 < decay <= 1, f"optim.layer_decay={decay} is not a factor; use more than 0, at most 1.")
    names = [name for name, _ in named_leaves(params)]
    blocks = sorted({_numbers(match) for match in map(_BLOCK.match, names) if match})
    check(
        bool(blocks),
        "optim.layer_decay: no parameter is named backbone/stageI_blockJ/...; leave it at 1.",
    )

    def depth(name: str) -> int:
        if not name.startswith(_BACKBONE):
            return len(blocks) + 1
        if block := _BLOCK.match(name):
            return blocks.index(_numbers(block)) + 1
        part = _STAGE.match(name)
        if part is None:
            return 0
        stage, what = int(part[1]), part[2]
        before = sum(block[0] < stage for block in blocks)
        if what == AFTER_BLOCKS:
            return before + sum(block[0] == stage for block in blocks)
        return before + 1 if before else 0

    top = len(blocks) + 1
    return map_with_names(lambda name, _: decay ** (top - depth(name)), params)


def _numbers(match: re.Match) -> tuple[int, int]:
    return int(match[1]), int(match[2])
