"""Plain PyTorch versions of networks and operators of which no package has one.

Written from the papers, as one would write them for readability; sizes equal ours, which the
parameters in the table show. Classes are made inside functions, since PyTorch is optional.
"""

from __future__ import annotations

import functools


def operator(name: str):
    """An operator on maps [n c h w] by the benchmark's name."""
    from torch.nn import functional

    if name == "depthwise":
        return lambda x, k: functional.conv2d(x, k, padding="same", groups=x.shape[1])
    if name == "criss_cross":
        return criss_cross

    def attention(query, key, value):
        flat = [x.flatten(2).transpose(1, 2) for x in (query, key, value)]
        if name == "non_local":  # without a scale, as ours; the map of all pairs is formed
            out = (flat[0] @ flat[1].transpose(1, 2)).softmax(-1) @ flat[2]
        else:  # with an axis of heads, without which there is no fused attention
            heads = [x.unsqueeze(1) for x in flat]
            out = functional.scaled_dot_product_attention(*heads).squeeze(1)
        return out.transpose(1, 2).reshape(value.shape[0], value.shape[1], *query.shape[2:])

    return attention


def criss_cross(query, key, value):
    """Criss-cross attention of maps [n d h w], [n d h w], [n c h w] (arXiv:1811.11721)."""
    import torch

    h = query.shape[2]
    column = torch.einsum("ndhw,ndgw->nhwg", query, key)
    row = torch.einsum("ndhw,ndhv->nhwv", query, key)
    itself = torch.eye(h, dtype=torch.bool, device=query.device)[:, None, :]
    weights = torch.cat([column.masked_fill(itself, float("-inf")), row], -1).softmax(-1)
    column, row = weights[..., :h], weights[..., h:]
    return torch.einsum("nhwg,ncgw->nchw", column, value) + torch.einsum(
        "nhwv,nchv->nchw", row, value
    )


@functools.cache
def _blocks():
    """Modules shared by the networks below."""
    import types

    import torch
    from torch import nn

    def conv_norm(a, b, k, stride=1, dilation=1):
        conv = nn.Conv2d(a, b, k, stride, dilation * (k // 2), dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU(inplace=True))

    def depthwise(c, kh, kw=None):
        kw = kw or kh
        return nn.Conv2d(c, c, (kh, kw), padding=(kh // 2, kw // 2), groups=c)

    class LayerNorm2d(nn.Module):
        """Over the channels of a map [n c h w]."""

        def __init__(self, c, eps=1e-6):
            super().__init__()
            self.norm = nn.LayerNorm(c, eps=eps)

        def forward(self, x):
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class MSCA(nn.Module):
        """SegNeXt's attention with its linear maps and skip (arXiv:2209.08575, eq. 1, 2)."""

        def __init__(self, c):
            super().__init__()
            self.first, self.last, self.mix = (nn.Conv2d(c, c, 1) for _ in range(3))
            self.local = depthwise(c, 5)
            self.strips = nn.ModuleList(
                nn.Sequential(depthwise(c, 1, k), depthwise(c, k, 1)) for k in (7, 11, 21)
            )

        def forward(self, x):
            y = nn.functional.gelu(self.first(x))
            local = self.local(y)
            y = self.mix(local + sum(strip(local) for strip in self.strips)) * y
            return x + self.last(y)

    class MSCANBlock(nn.Module):
        def __init__(self, c, ratio):
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
            self.attention = MSCA(c)
            wide = c * ratio
            self.ffn = nn.Sequential(
                nn.Conv2d(c, wide, 1), depthwise(wide, 3), nn.GELU(), nn.Conv2d(wide, c, 1)
            )
            self.scale1, self.scale2 = (nn.Parameter(1e-2 * torch.ones(c, 1, 1)) for _ in range(2))

        def forward(self, x):
            x = x + self.scale1 * self.attention(self.norm1(x))
            return x + self.scale2 * self.ffn(self.norm2(x))

    class Conv2FormerBlock(nn.Module):
        """Convolutional modulation and FFN (arXiv:2211.11943, section 3.2)."""

        def __init__(self, c, kernel, ratio, scaled=True):
            super().__init__()
            self.norm1, self.norm2 = LayerNorm2d(c), LayerNorm2d(c)
            self.context = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU(), depthwise(c, kernel))
            self.value, self.out = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
            wide = c * ratio
            self.expand, self.project = nn.Conv2d(c, wide, 1), nn.Conv2d(wide, c, 1)
            self.depthwise = depthwise(wide, 3)
            self.scale1 = self.scale2 = 1.0
            if scaled:
                first = 1e-6 * torch.ones(2, c, 1, 1)
                self.scale1, self.scale2 = (nn.Parameter(x) for x in first)

        def forward(self, x):
            y = self.norm1(x)
            x = x + self.scale1 * self.out(self.context(y) * self.value(y))
            y = nn.functional.gelu(self.expand(self.norm2(x)))
            y = y + nn.functional.gelu(self.depthwise(y))
            return x + self.scale2 * self.project(y)

    class MHSA(nn.Module):
        """Attention over a grid with relative positions by axis (arXiv:2101.11605, figure 4)."""

        def __init__(self, a, b, grid, stride, heads=4):
            super().__init__()
            self.heads, self.grid, self.width = heads, grid, b // heads
            self.qkv = nn.Conv2d(a, 3 * b, 1, bias=False)
            h, w = grid
            self.height = nn.Parameter(self.width**-0.5 * torch.randn(2 * h - 1, self.width))
            self.across = nn.Parameter(self.width**-0.5 * torch.randn(2 * w - 1, self.width))
            self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()

        def forward(self, x):
            n, (h, w) = x.shape[0], self.grid
            q, k, v = self.qkv(x).reshape(n, 3, self.heads, self.width, h, w).unbind(1)
            q = q * self.width**-0.5
            place_h, place_w = (torch.arange(s, device=x.device) for s in (h, w))
            rows = self.height[place_h[None] - place_h[:, None] + h - 1]
            columns = self.across[place_w[None] - place_w[:, None] + w - 1]
            logits = torch.einsum("nmdhw,nmdgv->nmhwgv", q, k)
            logits = logits + torch.einsum("nmdhw,hgd->nmhwg", q, rows)[..., None]
            logits = logits + torch.einsum("nmdhw,wvd->nmhwv", q, columns)[..., None, :]
            weights = logits.flatten(4).softmax(-1).reshape(logits.shape)
            return self.pool(torch.einsum("nmhwgv,nmdgv->nmdhw", weights, v).flatten(1, 2))

    class CrissCross(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.query, self.key = (nn.Conv2d(c, c // 8, 1) for _ in range(2))
            self.value = nn.Conv2d(c, c, 1)
            self.gamma = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.gamma * criss_cross(self.query(x), self.key(x), self.value(x)) + x

    class Ham(nn.Module):
        """Non-negative matrix factorisation (arXiv:2109.04553), six updates in training."""

        def __init__(self, bases=64, steps=6):
            super().__init__()
            self.bases, self.steps = bases, steps

        def forward(self, x):
            with torch.autocast(x.device.type, enabled=False):  # float32, as ours
                return self.factorised(x)

        def factorised(self, x):
            n, c, h, w = x.shape
            x = x.flatten(2).float()  # [n d l]
            bases = nn.functional.normalize(torch.rand(n, c, self.bases, device=x.device), dim=1)
            coef = torch.softmax(x.transpose(1, 2) @ bases, -1)
            for step in range(self.steps + 1):
                coef = coef * (
                    (x.transpose(1, 2) @ bases) / (coef @ (bases.transpose(1, 2) @ bases) + 1e-6)
                )
                if step < self.steps:
                    wanted = x @ coef
                    bases = bases * (wanted / (bases @ (coef.transpose(1, 2) @ coef) + 1e-6))
            return (bases @ coef.transpose(1, 2)).reshape(n, c, h, w)

    return types.SimpleNamespace(**{k: v for k, v in locals().items() if k not in ("types",)})


def segnext_t(classes: int, _size):
    """SegNeXt-T with the LightHam decoder of 256 channels."""
    import torch
    from torch import nn
    from torch.nn import functional

    b = _blocks()
    widths, depths, ratios = (32, 64, 160, 256), (3, 3, 5, 2), (8, 8, 4, 4)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList()
            for i, (c, depth, ratio) in enumerate(zip(widths, depths, ratios, strict=True)):
                if i == 0:
                    half = nn.Conv2d(3, c // 2, 3, 2, 1), nn.BatchNorm2d(c // 2), nn.GELU()
                    down = *half, nn.Conv2d(c // 2, c, 3, 2, 1), nn.BatchNorm2d(c)
                else:
                    down = nn.Conv2d(widths[i - 1], c, 3, 2, 1), nn.BatchNorm2d(c)
                blocks = (b.MSCANBlock(c, ratio) for _ in range(depth))
                self.stages.append(nn.Sequential(*down, *blocks, b.LayerNorm2d(c)))
            c = 256
            self.squeeze = b.conv_norm(sum(widths[1:]), c, 1)
            self.ham_in, self.ham = nn.Conv2d(c, c, 1), b.Ham()
            self.ham_out = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
            self.align, self.classify = b.conv_norm(c, c, 1), nn.Conv2d(c, classes, 1)

        def forward(self, x):
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            size = maps[1].shape[2:]
            maps = [functional.interpolate(m, size=size, mode="bilinear") for m in maps[1:]]
            x = self.squeeze(torch.cat(maps, 1))
            y = self.ham_out(self.ham(functional.relu(self.ham_in(x))).to(x.dtype))
            return self.classify(self.align(functional.relu(x + y)))

    return Network()


def ccnet_r50(classes: int, _size):
    """ResNet-50 with output stride 8 (timm) and two turns of criss-cross attention.

    In training it also returns the logits of the auxiliary head.
    """
    import timm
    import torch
    from torch import nn

    b = _blocks()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = timm.create_model(
                "resnet50c", features_only=True, out_indices=(3, 4), output_stride=8
            )
            self.first, self.second = b.conv_norm(2048, 512, 3), b.conv_norm(512, 512, 3)
            self.attention = b.CrissCross(512)
            self.fuse = b.conv_norm(2048 + 512, 512, 3)
            self.classify = nn.Conv2d(512, classes, 1)
            self.aux = nn.Sequential(b.conv_norm(1024, 256, 3), nn.Conv2d(256, classes, 1))

        def forward(self, x):
            before, x = self.body(x)
            y = self.second(self.attention(self.attention(self.first(x))))
            logits = self.classify(self.fuse(torch.cat([x, y], 1)))
            return (logits, self.aux(before)) if self.training else logits

    return Network()


def botnet50(classes: int, size):
    """ResNet-50 (timm) with attention in place of the 3x3 convolutions of its last stage."""
    import timm

    b = _blocks()
    network = timm.create_model("resnet50", num_classes=classes)
    for i, block in enumerate(network.layer4):
        side = 16 if i == 0 else 32
        grid = tuple(s // side for s in size)
        block.conv2 = b.MHSA(512, 512, grid, stride=2 if i == 0 else 1)
    return network


def conv2former_n(classes: int, _size):
    """Conv2Former-N (arXiv:2211.11943, table 1)."""
    from torch import nn

    b = _blocks()
    widths, depths = (64, 128, 256, 512), (2, 2, 8, 2)
    half = widths[0] // 2
    layers = [nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.GELU(), nn.BatchNorm2d(half)]
    layers += [nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.GELU(), nn.BatchNorm2d(half)]
    layers += [nn.Conv2d(half, widths[0], 2, 2, bias=False)]
    for i, (c, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            layers += [b.LayerNorm2d(widths[i - 1]), nn.Conv2d(widths[i - 1], c, 2, 2)]
        layers += [b.Conv2FormerBlock(c, 7, 4) for _ in range(depth)]
    c = widths[-1]
    layers += [b.LayerNorm2d(c), nn.Conv2d(c, 1280, 1), nn.GELU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(1280), nn.Linear(1280, classes)]
    return nn.Sequential(*layers)


def conv2former_n_cifar(classes: int, _size):
    """The variant for images of 32x32: stride 1, GroupNorm between stages, 11x11 kernels."""
    from torch import nn

    b = _blocks()
    widths, depths = (64, 128, 256, 512), (2, 2, 8, 2)
    layers = [nn.Conv2d(3, widths[0], 1)]
    for i, (c, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            before = widths[i - 1]
            layers += [nn.GroupNorm(1, before), nn.Conv2d(before, c, 2, 2, bias=False)]
        layers += [b.Conv2FormerBlock(c, 11, 2, scaled=False) for _ in range(depth)]
    layers += [b.LayerNorm2d(widths[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers)


NETWORKS = {
    f.__name__: f for f in (segnext_t, ccnet_r50, botnet50, conv2former_n, conv2former_n_cifar)
}
