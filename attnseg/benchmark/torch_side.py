"""The peers in PyTorch: Hugging Face and timm networks, and plain versions of the others.

PyTorch is imported when a worker asks for it; the package itself needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from attnseg.benchmark import torch_networks
from attnseg.benchmark.cases import OPERATORS, Case, shapes
from attnseg.benchmark.contestant import Contestant
from attnseg.core.errors import UserError

RATE = 1e-5  # of AdamW, as ours
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
_TRIALS = 2
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


def _device(module: str = "") -> dict:
    """Fields of a `Contestant`; `module` is a package whose version is told beside torch's.

    On a GPU float32 products are TF32, as in XLA, and cuDNN's algorithms are found by trial.
    """
    import torch

    used = [f"torch {torch.__version__}"]
    if module:
        used.append(f"{module} {metadata.version(module)}")
    if not torch.cuda.is_available():
        name = f"cpu, {torch.get_num_threads()} threads"
        return {"wait": lambda _: None, "device": ", ".join([name, *used]), "platform": "cpu"}
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True

    def peak() -> int:
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most

    return {
        "wait": lambda _: torch.cuda.synchronize(),
        "device": ", ".join([torch.cuda.get_device_name(), *used]),
        "platform": "gpu",
        "peak": peak,
    }


def _faster(run: Callable[[str], None], wait: Callable[[Any], None]) -> str:
    """The layout of `_LAYOUTS` in which `run(layout)` takes less time."""
    seconds = {}
    for layout in _LAYOUTS:
        run(layout)
        wait(None)
        turns = []
        for _ in range(_TRIALS):
            begun = time.perf_counter()
            run(layout)
            wait(None)
            turns.append(time.perf_counter() - begun)
        seconds[layout] = min(turns)
    return min(seconds, key=seconds.get)


def build(case: Case, *, compile_it: bool) -> Contestant:
    """The case in PyTorch, each pass in the faster one of its two layouts."""
    if case.name in OPERATORS:
        return _operator(case, compile_it=compile_it)
    import torch
    from torch.nn import functional

    package = "transformers" if case.name in _MIT else "timm" if case.name in _TIMM else ""
    fields = _device(package)
    device = torch.device("cpu" if fields["platform"] == "cpu" else "cuda")
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

    layouts = {"infer": _faster(infer, fields["wait"]), "train": _faster(gradients, fields["wait"])}
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
    return Contestant(runs, parameters=count, note=_told(layouts), **fields)


def _told(layouts: dict[str, str]) -> str:
    """The layouts of both passes in words."""
    return " / ".join(_LAYOUTS[layout] for layout in dict.fromkeys(layouts.values()))


def _operator(case: Case, *, compile_it: bool) -> Contestant:
    import torch

    fields = _device()
    device = torch.device("cpu" if fields["platform"] == "cpu" else "cuda")
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

    layouts = {"infer": _faster(infer, fields["wait"]), "train": _faster(train, fields["wait"])}
    for holder in (given, seeds):  # so that the memory is that of one layout
        for layout in set(_LAYOUTS) - set(layouts.values()):
            del holder[layout]
    run = torch.compile(function) if compile_it else function
    runs = {
        "infer": lambda: infer(layouts["infer"], run),
        "train": lambda: train(layouts["train"], run),
    }
    return Contestant(runs, note=_told(layouts), **fields)
