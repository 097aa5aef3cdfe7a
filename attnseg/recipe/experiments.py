"""The posts' experiments: which runs each one compares, at a size for a GPU or for two CPU cores.

A `Variant` is a configuration and what differs from it. All variants of an experiment share data,
steps and seeds, so that what is left between them is what the experiment is about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Attributes:
      label: its name in tables, curves and folders.
      config: file of the configurations' folder and data set, ``FILE.py:DATA``.
      changes: dotted keys that differ.
    """

    label: str
    config: str
    changes: Changes = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A comparison.

    Attributes:
      title: what is compared.
      claim: what the post says of it.
      variants: the things compared.
      cpu, full: dotted keys of all variants, for two CPU cores and for a GPU.
      split: the split whose score is reported.
    """

    title: str
    claim: str
    variants: tuple[Variant, ...]
    cpu: Changes
    full: Changes = dataclasses.field(default_factory=dict)
    split: str = "test"

    def changes(self, scale: str) -> Changes:
        """Dotted keys of `scale`, one of `SCALES`."""
        return getattr(self, scale)


SCALES = ("cpu", "full")

# CamVid's images fitted into a third of their size, for about a quarter of the pixels of the
# recipe `camvid`.
_CAMVID_CPU = {
    "data.resize": (120, 160),
    "eval.resize": (120, 160),
    "data.crop": (96, 128),
    "train.steps": 800,
    "log.every": 10,
    "eval.every": 100,
    "checkpoint.every": 800,
    "schedule.warmup_steps": 50,
    "train.ema": 0.99,
    "eval.overlays": 0,
}
_CAMVID_FULL = {
    "data.resize": None,
    "eval.resize": None,
    "data.crop": (360, 480),
    "data.batch_size": 16,
    "data.workers": 8,
    "train.epochs": 200.0,
    "eval.every": 500,
    "checkpoint.every": 500,
    "schedule.warmup_steps": 500,
    "train.ema": 0.999,
    "model.dtype": "bfloat16",
}
# Half the width and a third of the blocks, so that a run takes minutes.
_CIFAR_CPU = {
    "model.backbone.widths": (32, 64, 128, 256),
    "model.backbone.depths": (1, 1, 2, 1),
    "data.batch_size": 64,
    "train.steps": 400,
    "log.every": 10,
    "eval.every": 200,
    "checkpoint.every": 400,
    "data.workers": 0,
    "optim.lr": 5e-4,
    "schedule.warmup_steps": 40,
}
_CIFAR_FULL = {"model.dtype": "bfloat16", "data.workers": 8}
_CIFAR_POST = "conv2former_n_cifar.py:cifar10_post"
# Half the width, for a quarter of the products.
_RESNET_CPU = _CAMVID_CPU | {"model.backbone.width": 32}
_CCNET_CPU = _RESNET_CPU | {
    "model.head.width": 64,
    "model.aux_head.width": 64,
    "train.steps": 400,
    "checkpoint.every": 400,
}


def _kernel(side: int) -> Variant:
    return Variant(f"kernel {side}", _CIFAR_POST, {"model.backbone.kernel": side})


def _recurrence(times: int) -> Variant:
    return Variant(f"R = {times}", "ccnet_r50.py:camvid", {"model.head.recurrence": times})


EXPERIMENTS: dict[str, Experiment] = {
    "segnext": Experiment(
        "SegNeXt-T and SegFormer-B0 from random weights on CamVid",
        "SegNeXt converges faster and ends higher (SegNeXt post)",
        (
            Variant("SegNeXt-T", "segnext_t.py:camvid"),
            Variant("SegFormer-B0", "segformer_b0.py:camvid"),
        ),
        _CAMVID_CPU,
        _CAMVID_FULL,
    ),
    "segnext_decoders": Experiment(
        "Three decoders on MSCAN-T, CamVid",
        "Hamburger's decoder is the best of the three (SegNeXt paper, table 8, and post)",
        (
            Variant("LightHam", "segnext_t.py:camvid"),
            Variant("SegFormer's MLP", "pair.py:mscan_t+segformer@camvid"),
            Variant("FCN", "pair.py:mscan_t+fcn@camvid"),
        ),
        _CAMVID_CPU,
        _CAMVID_FULL,
    ),
    "conv2former_tricks": Experiment(
        "Conv2Former-N on CIFAR-10: the post's recipe and the full list of tricks",
        "0.82 after 50 epochs, Swin-T 0.75 (Conv2Former post)",
        (
            Variant("post", _CIFAR_POST),
            Variant(
                "all tricks",
                "conv2former_n_cifar.py:cifar10",
                {"model.backbone.layer_scale": 1e-6},
            ),
        ),
        _CIFAR_CPU,
        _CIFAR_FULL,
    ),
    "conv2former_kernel": Experiment(
        "Side of Conv2Former's depthwise kernel, CIFAR-10",
        "larger is better up to 11, little after (Conv2Former paper, table 7, and post)",
        tuple(_kernel(side) for side in (5, 7, 11, 21)),
        _CIFAR_CPU,
        _CIFAR_FULL,
    ),
    "conv2former_fusion": Experiment(
        "How Conv2Former's context meets its values, CIFAR-10",
        "the product is better than the sum (Conv2Former paper, table 8, and post)",
        (
            Variant("Hadamard", _CIFAR_POST),
            Variant("sum", _CIFAR_POST, {"model.backbone.fusion": "sum"}),
        ),
        _CIFAR_CPU,
        _CIFAR_FULL,
    ),
    "segformer_sizes": Experiment(
        "SegFormer-B0 and B1 from random weights on CamVid",
        "B1 is better (SegFormer post)",
        (
            Variant("SegFormer-B0", "segformer_b0.py:camvid"),
            Variant("SegFormer-B1", "segformer_b1.py:camvid"),
        ),
        _CAMVID_CPU,
        _CAMVID_FULL,
    ),
    "ccnet": Experiment(
        "CCNet-R50 with R rounds of criss-cross attention, and the non-local block, on CamVid",
        "two rounds are better than one, one better than none, and cheaper than non-local "
        "attention (CCNet paper, tables 1 and 3, and post)",
        (
            *(_recurrence(times) for times in (0, 1, 2)),
            Variant("non-local", "nonlocal_r50.py:camvid"),
        ),
        _CCNET_CPU,
        _CAMVID_FULL,
    ),
    "botnet": Experiment(
        "BoTNet-50 and ResNet-50 under SegFormer's decoder, with and without positions, on CamVid",
        "attention in the last stage beats convolution, and needs relative positions "
        "(BoTNet paper, tables 2 and 4, and post)",
        (
            Variant("BoTNet-50", "botnet50.py:camvid"),
            Variant(
                "BoTNet-50, no positions",
                "botnet50.py:camvid",
                {"model.backbone.position": "none"},
            ),
            Variant("ResNet-50", "resnet50.py:camvid"),
        ),
        _RESNET_CPU,
        _CAMVID_FULL,
    ),
}
