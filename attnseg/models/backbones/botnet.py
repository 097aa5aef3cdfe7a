"""BoTNet: a ResNet whose last stage attends (arXiv:2101.11605, sections 3 and 4, table 1).

Every 3x3 convolution of the fourth stage becomes attention over the whole grid. In the S1
networks that stage keeps the grid of the third. The paper has bottleneck blocks only; in
``botnet18`` and ``botnet34`` attention replaces the second convolution of each basic block.
``botnet26t`` is timm's, which attends in half of the third stage as well.
"""

from __future__ import annotations

import functools

from attnseg.core.errors import check
from attnseg.layers.relpos_attention import MHSA
from attnseg.models.backbones import resnet

SIZES = {
    prefix + name.removeprefix("resnet"): dict(size, dilation=dilation)
    for prefix, dilation in (("botnet", "os32"), ("botnet_s1_", "s1"))
    for name, size in resnet.SIZES.items()
} | {
    "botnet26t": dict(depths=(2, 2, 2, 2), stem="tiered", attend=(0, 0, 1, 2)),
}


def _attention(features: int, *, dilation: int, **fields) -> MHSA:
    """Attention where a block expects a convolution; a dilation does not concern it."""
    del dilation
    return MHSA(features, **fields)


class BoTNet(resnet.ResNet):
    """Bottleneck Transformer network: `ResNet` with attention in place of some convolutions.

    Position tables fit the image at initialisation; other sizes interpolate them (see `MHSA`).
    """

    attend: tuple[int, ...] | None = None  # last blocks of each stage; None: all of the fourth
    heads: int = 4
    position: str = "relative"  # see `MHSA`, as the following
    scale: str = "content"
    attention_bias: bool = False
    transpose: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.attend is None or (
            len(self.attend) == 4
            and all(0 <= n <= d for n, d in zip(self.attend, self.depths, strict=True))
        )
        check(
            fits,
            f"botnet: attend={self.attend} needs a number of blocks for each stage, at most "
            f"depths={self.depths}.",
        )

    def mixer(self, stage: int, block: int) -> resnet.Mixer:
        """Attention in the blocks that `attend` counts, from the end of each stage."""
        depth = self.depths[stage - 1]
        count = self.attend[stage - 1] if self.attend else depth * (stage == 4)
        if block <= depth - count:
            return super().mixer(stage, block)
        return functools.partial(
            _attention,
            heads=self.heads,
            position=self.position,
            scale=self.scale,
            use_bias=self.attention_bias,
            transpose=self.transpose,
        )
