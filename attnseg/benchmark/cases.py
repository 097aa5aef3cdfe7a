"""What is measured: a model or an operator with its sizes, and who runs it."""

from __future__ import annotations

import dataclasses

from attnseg.core.errors import check, lookup

OPERATORS = ("depthwise", "criss_cross", "non_local", "spatial_reduction")
REDUCTION = 8  # queries and keys of criss-cross attention have that many times fewer channels
OURS, TORCH, COMPILED, KERAS = "ours", "torch", "torch.compile", "keras"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table for each contestant.

    Attributes:
      name: a name of `attnseg.list_models()`, or one of `OPERATORS`.
      size: sides h, w of the image, or of an operator's map.
      batch: examples.
      width: classes of a model, channels of an operator.
      dtype: "float32" or "bfloat16" (torch: autocast of networks).
      kernel: sides of a depthwise kernel; of depthwise convolution only.
      peers: who else runs it.
      devices: how many share the batch; more than one for our models only.
    """

    name: str
    size: tuple[int, int]
    batch: int
    width: int = 150
    dtype: str = "float32"
    kernel: tuple[int, int] = (3, 3)
    peers: tuple[str, ...] = (TORCH,)
    devices: int = 1

    @property
    def title(self) -> str:
        kernel = " {}x{}".format(*self.kernel) if self.name == "depthwise" else ""
        h, w = self.size
        devices = f" on {self.devices} devices" if self.devices > 1 else ""
        return f"{self.name}{kernel} {self.batch}x{h}x{w} {self.width} {self.dtype}{devices}"


def _models(dtype: str, rows: list[tuple], peers: tuple[str, ...]) -> list[Case]:
    return [
        Case(name, (side, side), batch, width, dtype, peers=peers + extra)
        for name, side, batch, width, extra in rows
    ]


def _cpu() -> list[Case]:
    rows = [
        ("segformer_b0", 512, 2, 150, (KERAS,)),
        ("segformer_b2", 512, 1, 150, ()),
        ("segnext_t", 512, 1, 150, ()),
        ("ccnet_r50", 257, 2, 19, ()),
        ("botnet50", 224, 4, 1000, ()),
        ("conv2former_n", 224, 4, 1000, ()),
        ("swin_t", 224, 4, 1000, ()),
        ("resnet50", 224, 4, 1000, ()),
    ]
    return _models("float32", rows, (TORCH,))


def _gpu() -> list[Case]:
    rows = [
        ("segformer_b0", 512, 16, 150, (KERAS,)),
        ("segformer_b2", 512, 16, 150, ()),
        ("segnext_t", 512, 16, 150, ()),
        ("ccnet_r50", 769, 4, 19, ()),
        ("botnet50", 224, 128, 1000, ()),
        ("conv2former_n", 224, 128, 1000, ()),
        ("conv2former_n_cifar", 32, 1024, 10, ()),
        ("swin_t", 224, 128, 1000, ()),
        ("resnet50", 224, 128, 1000, ()),
    ]
    return _models("bfloat16", rows, (TORCH, COMPILED)) + _operators("bfloat16", 16, 97)


def _operators(dtype: str, batch: int, side: int) -> list[Case]:
    kernels = [(3, 3), (5, 5), (7, 7), (11, 11)]
    kernels += [strip for k in (7, 11, 21) for strip in ((1, k), (k, 1))]
    depthwise = [Case("depthwise", (64, 64), batch, 128, dtype, kernel=k) for k in kernels]
    attention = [
        Case("criss_cross", (side, side), 1, 512, dtype),
        Case("non_local", (side, side), 1, 512, dtype),
        Case("spatial_reduction", (128, 128), batch, 32, dtype),
    ]
    return depthwise + attention


def _memory() -> list[Case]:
    """Operators whose memory is shown as the map grows; ours alone."""
    return [
        Case(name, (side, side), 1, 512, peers=())
        for side in (33, 49, 65, 81, 97)
        for name in ("criss_cross", "non_local")
    ] + [Case("criss_cross", (256, 512), 1, 512, peers=())]


SUITES = {
    "cpu": _cpu,
    "gpu": _gpu,
    "operators": lambda: _operators("float32", 2, 49),
    "memory": _memory,
}


def suite(name: str) -> list[Case]:
    """The cases of a suite.

    Raises:
      UserError: there is no such suite.
    """
    return lookup(SUITES, name, "suite")()


def single(
    model: str, size: int, batch: int, classes: int, dtype: str, peers: str, devices: int = 1
) -> list[Case]:
    """One model, with peers given as "torch,keras".

    Raises:
      UserError: numbers below one, an unknown dtype or peer; several devices with peers, for an
        operator, or for a batch that does not split over them.
    """
    least = min(size, batch, classes, devices)
    check(least > 0, "--size, --batch, --classes and --devices must be 1 or more.")
    check(dtype in ("float32", "bfloat16"), f'--dtype="{dtype}" is none of float32, bfloat16.')
    names = tuple(p for p in peers.split(",") if p)
    for peer in names:
        check(
            peer in (TORCH, COMPILED, KERAS),
            f'--peers: "{peer}" is none of {TORCH}, {COMPILED}, {KERAS}.',
        )
    check(devices == 1 or not names, "--devices: peers run on one device; add --peers=''.")
    check(devices == 1 or model not in OPERATORS, f"--devices: {model} runs on one device.")
    check(batch % devices == 0, f"--batch={batch} does not split over --devices={devices}.")
    return [Case(model, (size, size), batch, classes, dtype, peers=names, devices=devices)]


def shapes(case: Case) -> list[tuple[int, ...]]:
    """Shapes of an operator's arguments: maps [n h w c], and a kernel [kh kw 1 c]."""
    n, (h, w), c = case.batch, case.size, case.width
    if case.name == "depthwise":
        return [(n, h, w, c), (*case.kernel, 1, c)]
    if case.name == "criss_cross":
        return [(n, h, w, c // REDUCTION)] * 2 + [(n, h, w, c)]
    if case.name == "non_local":
        return [(n, h, w, c // 2)] * 3
    return [(n, h, w, c)] + [(n, h // 8, w // 8, c)] * 2  # SegFormer's first stage
