"""The peers in PyTorch: Hugging Face and timm networks, and plain versions of the others.

PyTorch is imported when a worker asks for it; the package itself needs none.
"""

from __future__ import annotations

from attnseg.benchmark import torch_networks
from attnseg.benchmark.cases import OPERATORS, Case, shapes
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


def _device():
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    peak = torch.cuda.max_memory_allocated if cuda else lambda: None
    wait = torch.cuda.synchronize if cuda else lambda: None
    return torch.device("cuda" if cuda else "cpu"), f"{name}, torch {torch.__version__}", peak, wait


def build(case: Case, *, compile_it: bool):
    """``(runs, facts by mode, parameters, device, peak memory)``, as `worker` wants them."""
    if case.name in OPERATORS:
        return _operator(case, compile_it=compile_it)
    import torch
    from torch.nn import functional

    device, description, peak, wait = _device()
    torch.manual_seed(0)
    network, call = _network(case)
    network.to(device)
    if device.type == "cuda":  # the layout cuDNN likes with half precision
        network.to(memory_format=torch.channels_last)
    if compile_it:
        call = torch.compile(call)
    h, w = case.size
    images = torch.randn(case.batch, 3, h, w, device=device)
    low = case.dtype == "bfloat16"
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    target = None

    def forward():
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            return call(images)

    def infer() -> None:
        network.eval()
        with torch.no_grad():
            forward()
        wait()

    def loss(logits):
        nonlocal target
        if logits.ndim == 4:
            logits = functional.interpolate(logits, size=(h, w), mode="bilinear")
        if target is None:
            shape = (case.batch, *logits.shape[2:])
            target = torch.randint(0, case.width, shape, device=device)
        return functional.cross_entropy(logits, target)

    def train() -> None:
        network.train()
        outputs = forward()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [loss(logits.float()) for logits in outputs]
        total = losses[0] + AUX_WEIGHT * sum(losses[1:])
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        wait()

    count = sum(p.numel() for p in network.parameters())
    return {"infer": infer, "train": train}, {}, count, description, peak


def _operator(case: Case, *, compile_it: bool):
    import torch

    device, description, peak, wait = _device()
    function = torch_networks.operator(case.name)
    if compile_it:
        function = torch.compile(function)
    dtype = getattr(torch, case.dtype)
    # Maps as torch wants them, [n c h w]; a kernel [kh kw 1 c] becomes [c 1 kh kw].
    args = []
    for n, h, w, c in shapes(case):
        args.append(torch.randn(n, c, h, w, device=device, dtype=dtype))
    if case.name == "depthwise":
        kh, kw = case.kernel
        args[1] = torch.randn(case.width, 1, kh, kw, device=device, dtype=dtype)
    for x in args:
        x.requires_grad_()
    seed = torch.ones_like(function(*args).detach())

    def infer() -> None:
        with torch.no_grad():
            function(*args)
        wait()

    def train() -> None:
        torch.autograd.grad(function(*args), args, seed)
        wait()

    return {"infer": infer, "train": train}, {}, 0, description, peak
