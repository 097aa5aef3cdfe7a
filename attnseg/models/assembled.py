"""Backbone and heads put together."""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from attnseg.core.errors import check
from attnseg.core.types import AUX, BRANCHES, LOGITS, Outputs


def _check_images(images: Array) -> None:
    check(
        images.ndim == 4 and images.shape[-1] == 3,
        f"images have shape {tuple(images.shape)}, expected [n h w 3].",
    )


class Segmenter(nn.Module):
    """Per-pixel classifier: backbone, head and an optional auxiliary head used by the loss."""

    backbone: nn.Module
    head: nn.Module
    aux_head: nn.Module | None = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Outputs:
        """Normalised images [n h w 3] -> {"logits": f32 [n h/s w/s k], "branches", "aux"}.

        The last two are tuples of further logits, which only the loss looks at.
        """
        _check_images(images)
        features = self.backbone(images, train=train)
        logits = self.head(features, train=train)
        # Some decoders also classify their branches (DANet).
        logits, branches = logits if isinstance(logits, tuple) else (logits, ())
        aux = () if self.aux_head is None else (self.aux_head(features, train=train),)
        return {LOGITS: logits, BRANCHES: branches, AUX: aux}


class Classifier(nn.Module):
    """Image classifier: backbone and head."""

    backbone: nn.Module
    head: nn.Module

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Outputs:
        """Normalised images [n h w 3] -> {"logits": f32 [n k], "aux": ()}."""
        _check_images(images)
        return {LOGITS: self.head(self.backbone(images, train=train), train=train), AUX: ()}
