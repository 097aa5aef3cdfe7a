"""The peers in PyTorch: Hugging Face and timm networks, and plain versions of the others.

PyTorch is imported when a worker asks for it; the package itself needs none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

from attnseg.benchmark import torch_networks
from attnseg.benchmark.cases import OPERATORS, Case, shapes
from attnseg.benchmark.contestant import RATE, Contestant, check_platform, fastest
from attnseg.core.errors import UserError

AUX_WEIGHT = 0.4  # of the auxiliary head's loss, as `attnseg.tasks.segmentation` has it
_MIT = {  # widths, depths, decoder width (arXiv:2105.15203, table 6)
    "segformer_b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "segformer_b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "segformer_b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "segformer_b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "segformer_b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "segformer_b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
# Memory formats of torch, and what they are called; which is faster differs by network and chip.
_LAYOUTS = {"contiguous_format": "NCHW", "channels_last": "NHWC"}
_TRIALS = 2  # measurements of each
_TIMM = {"swin_t": "swin_tiny_patch4_window7_224", "resnet50": "resnet50", "resnet101": "resnet101"}


def _segformer(case: Case):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, depths, decoder = _MIT[case.name]
    config = SegformerConfig(
        hidden_sizes=list(widths),
        depths=list(depths),
        decoder_hidden_size=decoder,
        num_labels=case.width,
    )
    network = SegformerForSemanticSegmentation(config)
    return network, lambda images: network(images).logits


def _network(case: Case):
    """The network and a function ``images -> logits``, or all logits that are trained on."""
    if case.name in _MIT:
        return _segformer(case)
    if case.name in _TIMM:
        import timm

        network = timm.create_model(_TIMM[case.name], num_classes=case.width)
    elif case.name in torch_networks.NETWORKS:
        network = torch_networks.NETWORKS[case.name](case.width, case.size)
    else:
        raise UserError(f"{case.name} has no PyTorch version here.")
    return network, network


def _device(wanted: str, package: str = "") -> tuple[Any, dict]:
    """The device, and fields of a `Contestant`; the version of `package` is told beside torch's.

    Of torch's settings on a GPU float32 products become TF32, as XLA's are, and cuDNN's algorithms
    are found by trial.

    Raises:
      UserError: torch does not run on the platform `wanted`.
    """
    import torch

    used = [f"torch {torch.__version__}"]
    if package:
        used.append(f"{package} {metadata.version(package)}")
    found = "gpu" if torch.cuda.is_available() else "cpu"
    if found == "cpu":
        name = f"cpu, {torch.get_num_threads()} threads"
    else:
        name = torch.cuda.get_device_name()
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    fields = {"device": ", ".join([name, *used]), "platform": found, "wait": lambda _: None}
    check_platform(found, fields["device"], wanted)
    if found == "cpu":
        return torch.device("cpu"), fields

    def peak() -> int:
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most

    fields |= {"wait": lambda _: torch.cuda.synchronize(), "peak": peak}
    return torch.device("cuda"), fields


def _faster(run: Callable[[str], None], wait: Callable[[Any], None], platform: str) -> str:
    """The layout of `_LAYOUTS` in which `run(layout)` takes less time."""
    seconds = {
        layout: fastest(functools.partial(run, layout), wait, platform, _TRIALS)
        for layout in _LAYOUTS
    }
    return min(seconds, key=seconds.get)


def _layouts(passes: dict[str, Callable[[str], None]], fields: dict) -> dict[str, str]:
    """The layout of each pass; what the trials held of a GPU's memory is given back."""
    import torch

    chosen = {
        mode: _faster(run, fields["wait"], fields["platform"]) for mode, run in passes.items()
    }
    if fields["platform"] == "gpu":
        torch.cuda.empty_cache()
    return chosen


def build(case: Case, platform: str, *, compile_it: bool) -> Contestant:
    """The case in PyTorch, each pass in the layout in which it is faster before compilation.

    Raises:
      UserError: torch does not run on `platform`, or there is no such network.
    """
    if case.name in OPERATORS:
        return _operator(case, platform, compile_it=compile_it)
    import torch
    from torch.nn import functional

    package = "transformers" if case.name in _MIT else "timm" if case.name in _TIMM else ""
    device, fields = _device(platform, package)
    torch.manual_seed(0)
    network, call = _network(case)
    network.to(device)
    h, w = case.size
    images = torch.randn(case.batch, 3, h, w, device=device)
    low = case.dtype == "bfloat16"
    target = None

    def arrange(layout: str) -> None:
        nonlocal images
        kind = getattr(torch, layout)
        if not images.is_contiguous(memory_format=kind):
            images = images.contiguous(memory_format=kind)
            network.to(memory_format=kind)

    def forward(images):
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            return call(images)

    def loss(logits):
        nonlocal target
        if logits.ndim == 4:
            logits = functional.interpolate(logits, size=(h, w), mode="bilinear")
        if target is None:
            shape = (case.batch, *logits.shape[2:])
            target = torch.randint(0, case.width, shape, device=device)
        return functional.cross_entropy(logits, target)

    def objective(images):
        outputs = forward(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [loss(logits.float()) for logits in outputs]
        return losses[0] + AUX_WEIGHT * sum(losses[1:])

    def infer(layout: str, function: Callable = forward) -> None:
        arrange(layout)
        if network.training:  # goes through all modules
            network.eval()
        with torch.no_grad():
            function(images)

    def gradients(layout: str, function: Callable = objective) -> None:
        arrange(layout)
        if not network.training:
            network.train()
        network.zero_grad(set_to_none=True)
        function(images).backward()

    layouts = _layouts({"infer": infer, "train": gradients}, fields)
    arrange(layouts["train"])
    network.zero_grad(set_to_none=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    # Forward pass and loss are compiled together; the target exists by now.
    predict, objective = (torch.compile(f) if compile_it else f for f in (forward, objective))

    def train() -> None:
        gradients(layouts["train"], objective)
        optimizer.step()

    count = sum(p.numel() for p in network.parameters())
    runs = {"infer": lambda: infer(layouts["infer"], predict), "train": train}
    note = _told(layouts)
    return Contestant(runs, parameters=count, note=note, compiles=compile_it, **fields)


def _told(layouts: dict[str, str]) -> str:
    """The layouts of both passes in words."""
    return " / ".join(_LAYOUTS[layout] for layout in dict.fromkeys(layouts.values()))


def _operator(case: Case, platform: str, *, compile_it: bool) -> Contestant:
    import torch

    device, fields = _device(platform)
    function = torch_networks.operator(case.name)
    dtype = getattr(torch, case.dtype)
    # Maps as torch wants them, [n c h w]; a kernel [kh kw 1 c] becomes [c 1 kh kw].
    args = []
    for n, h, w, c in shapes(case):
        args.append(torch.randn(n, c, h, w, device=device, dtype=dtype))
    if case.name == "depthwise":
        kh, kw = case.kernel
        args[1] = torch.randn(case.width, 1, kh, kw, device=device, dtype=dtype)
    given = {
        layout: [x.clone(memory_format=getattr(torch, layout)).requires_grad_() for x in args]
        for layout in _LAYOUTS
    }
    seeds = {layout: torch.ones_like(function(*given[layout]).detach()) for layout in _LAYOUTS}

    def infer(layout: str, function: Callable = function) -> None:
        with torch.no_grad():
            function(*given[layout])

    def train(layout: str, function: Callable = function) -> None:
        torch.autograd.grad(function(*given[layout]), given[layout], seeds[layout])

    layouts = _layouts({"infer": infer, "train": train}, fields)
    for holder in (given, seeds):  # what no pass uses would count as memory
        for layout in set(_LAYOUTS) - set(layouts.values()):
            del holder[layout]
    run = torch.compile(function) if compile_it else function
    runs = {
        "infer": lambda: infer(layouts["infer"], run),
        "train": lambda: train(layouts["train"], run),
    }
    return Contestant(runs, note=_told(layouts), compiles=compile_it, **fields)
