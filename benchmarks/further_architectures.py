"""Further architectures that the rules of ``predict`` weren't written for: well-known ones in plain PyTorch.

Small sizes, at their own start, nothing trained; each a function that returns the model and its positional inputs.
Those of transformers are in further_public.py.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class TimedBlock(nn.Module):
    """A residual block with group norms that is told the time (Ho et al., 2020)."""

    def __init__(self, inputs, outputs, time):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, time):
        y = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(8, width),
            nn.Conv2d(width, 3 * width, 1),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(x.shape))


class Diffusion(nn.Module):
    """The denoiser of DDPM: a U-Net with a time embedding, attention in the middle and skips that are joined."""

    def __init__(self, width=32):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down2 = TimedBlock(width, width, 4 * width), TimedBlock(width, 2 * width, 4 * width)
        self.reduce = nn.Conv2d(width, width, 3, 2, 1)
        self.middle, self.attention = TimedBlock(2 * width, 2 * width, 4 * width), SpatialAttention(2 * width)
        self.up2, self.up1 = TimedBlock(4 * width, width, 4 * width), TimedBlock(2 * width, width, 4 * width)
        self.norm, self.head = nn.GroupNorm(8, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t):
        half = torch.exp(-math.log(1e4) * torch.arange(self.width // 2, device=t.device) / (self.width // 2))
        angles = t[:, None].float() * half
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        one = self.down1(self.stem(x), time)
        two = self.down2(self.reduce(one), time)
        y = self.attention(self.middle(two, time))
        y = functional.interpolate(self.up2(torch.cat([y, two], 1), time), scale_factor=2.0, mode="nearest")
        return self.head(functional.silu(self.norm(self.up1(torch.cat([y, one], 1), time))))


class DiTBlock(nn.Module):
    """A block of a diffusion transformer, whose norms are told scale, shift and gate (Peebles and Xie, 2023)."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, c):
        s1, b1, g1, s2, b2, g2 = self.told(c)[:, None].chunk(6, -1)
        y = self.norm1(x) * (1 + s1) + b1
        x = x + g1 * self.attention(y, y, y, need_weights=False)[0]
        return x + g2 * self.mlp(self.norm2(x) * (1 + s2) + b2)


class DiT(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.patch, self.label = nn.Conv2d(3, width, 8, 8), nn.Embedding(10, width)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 192)

    def forward(self, x, label):
        x, c = self.patch(x).flatten(2).transpose(1, 2) + self.place, self.label(label)
        for block in self.blocks:
            x = block(x, c)
        return self.head(self.norm(x))


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the others are convolved, then all are shuffled (Ma et al., 2018)."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
            *(nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half)),
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        )

    def forward(self, x):
        passed, rest = x.chunk(2, 1)
        y = torch.cat([passed, self.body(rest)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet():
    stem = (nn.Conv2d(3, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(inplace=True))
    units = [ShuffleUnit(48) for _ in range(4)]
    model = nn.Sequential(*stem, *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
    return model, (torch.randn(8, 3, 32, 32),)


class Fire(nn.Module):
    """Squeezed to few channels, expanded by two kinds of convolution (SqueezeNet, Iandola et al., 2016)."""

    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


def squeezenet():
    layers = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(32, 16, 32), Fire(64, 16, 32)]
    layers += [nn.MaxPool2d(3, 2, ceil_mode=True), Fire(64, 24, 48), Fire(96, 24, 48), nn.Dropout(0.5)]
    model = nn.Sequential(*layers, nn.Conv2d(96, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model, (torch.randn(8, 3, 48, 48),)


def normed(inputs, outputs, size, **options):
    convolution = nn.Conv2d(inputs, outputs, size, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=0.001), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four branches side by side (Szegedy et al., 2015)."""

    def __init__(self, inputs):
        super().__init__()
        self.one = normed(inputs, 16, 1)
        self.three = nn.Sequential(normed(inputs, 16, 1), normed(16, 24, 3, padding=1))
        self.five = nn.Sequential(normed(inputs, 8, 1), normed(8, 12, 3, padding=1), normed(12, 12, 3, padding=1))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), normed(inputs, 12, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def inception():
    layers = [normed(3, 24, 3, stride=2, padding=1), Inception(24), Inception(64), nn.MaxPool2d(3, 2, 1), Inception(64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), (
        torch.randn(8, 3, 32, 32),
    )


def vgg():
    """VGG-11 with batch norm, an eighth of its width."""
    layers, width = [], 3
    for outputs in (8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"):
        if outputs == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        width = outputs
    head = (
        nn.Linear(64, 128),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(128, 128),
        nn.ReLU(inplace=True),
        nn.Dropout(),
    )
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(128, 10)), (torch.randn(8, 3, 32, 32),)


def generator():
    """The generator of DCGAN (Radford et al., 2016)."""
    layers, width = [nn.ConvTranspose2d(32, 64, 4, 1, 0, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)], 64
    for _ in range(2):
        layers += [
            nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
        ]
        width //= 2
    model = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return model, (torch.randn(16, 32, 1, 1),)


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions with weight norm, dropout and a shortcut (Bai et al., 2018)."""

    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.conv1 = norm(nn.Conv1d(inputs, outputs, 3, padding=2 * dilation, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(outputs, outputs, 3, padding=2 * dilation, dilation=dilation))
        self.cut = 2 * dilation
        self.drop = nn.Dropout(0.2)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = self.drop(torch.relu(self.conv1(x)[:, :, : -self.cut].contiguous()))
        y = self.drop(torch.relu(self.conv2(y)[:, :, : -self.cut].contiguous()))
        return torch.relu(y + self.shortcut(x))


def tcn():
    blocks = [TemporalBlock(1 if at == 0 else 32, 32, 2**at) for at in range(4)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 10)), (torch.randn(8, 1, 64),)


class Highway(nn.Module):
    """Layers that a gate mixes with what they were given (Srivastava et al., 2015)."""

    def __init__(self, depth=10, width=64):
        super().__init__()
        self.first = nn.Linear(32, width)
        self.plain = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x):
        x = self.first(x)
        for plain, gate in zip(self.plain, self.gates, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * torch.relu(plain(x)) + (1 - t) * x
        return x


class GraphAttention(nn.Module):
    """A layer of a graph attention network over a dense adjacency matrix (Veličković et al., 2018)."""

    def __init__(self, inputs, outputs, heads):
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(inputs, heads * outputs, bias=False)
        self.source, self.target = (nn.Parameter(torch.empty(heads, outputs)) for _ in range(2))
        for parameter in (self.linear.weight, self.source, self.target):
            nn.init.xavier_uniform_(parameter)

    def forward(self, x, links):
        h = self.linear(x).view(x.shape[0], self.heads, -1)
        scores = (h * self.source).sum(-1)[:, None] + (h * self.target).sum(-1)[None]
        scores = functional.leaky_relu(scores, 0.2).masked_fill(~links[:, :, None], float("-inf"))
        return torch.einsum("ijh,jhd->ihd", torch.softmax(scores, 1), h).flatten(1)


def graph(nodes=24):
    links = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(0)) < 0.2
    return links | links.T | torch.eye(nodes, dtype=torch.bool)


class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("links", graph())
        self.first, self.second = GraphAttention(32, 16, 4), GraphAttention(64, 16, 4)
        self.head = nn.Linear(64, 7)

    def forward(self, x):
        x = functional.elu(self.first(x, self.links))
        return self.head(functional.elu(self.second(x, self.links)))


class GIN(nn.Module):
    """A graph isomorphism network over a list of edges (Xu et al., 2019)."""

    def __init__(self, width=64):
        super().__init__()
        edges = (graph() & ~torch.eye(24, dtype=torch.bool)).nonzero().T.contiguous()
        self.register_buffer("edges", edges)
        self.eps = nn.Parameter(torch.zeros(3))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))
            for n in (32, width, width)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        source, target = self.edges
        for at, mlp in enumerate(self.mlps):
            total = torch.zeros_like(x).index_add_(0, target, x[source])
            x = torch.relu(mlp((1 + self.eps[at]) * x + total))
        return self.head(x.sum(0, keepdim=True))


class Capsules(nn.Module):
    """Primary capsules, squashed, and a layer with dynamic routing (Sabour et al., 2017)."""

    def __init__(self):
        super().__init__()
        self.conv, self.primary = nn.Conv2d(1, 64, 5), nn.Conv2d(64, 32, 5, 2)
        self.weight = nn.Parameter(0.01 * torch.randn(1, 64, 5, 16, 8))

    @staticmethod
    def squash(x):
        square = x.square().sum(-1, keepdim=True)
        return square / (1 + square) * x / (square.sqrt() + 1e-8)

    def forward(self, x):
        x = self.primary(torch.relu(self.conv(x)))
        x = self.squash(x.view(x.shape[0], 4, 8, -1).permute(0, 1, 3, 2).reshape(x.shape[0], 64, 8))
        votes = (self.weight @ x[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros(votes.shape[:3], device=x.device)
        for _ in range(3):
            out = self.squash((torch.softmax(logits, 2)[..., None] * votes).sum(1, keepdim=True))
            logits = logits + (votes * out).sum(-1)
        return out.squeeze(1).norm(dim=-1)


class Sine(nn.Module):
    """SIREN: sines of linear layers (Sitzmann et al., 2020)."""

    def __init__(self, width=128, depth=4, omega=30.0):
        super().__init__()
        self.layers, self.omega = nn.ModuleList(nn.Linear(2 if k == 0 else width, width) for k in range(depth)), omega
        self.head = nn.Linear(width, 3)
        for at, layer in enumerate((*self.layers, self.head)):
            bound = 1 / 2 if at == 0 else math.sqrt(6 / width) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.head(x)


class Coupling(nn.Module):
    """An affine coupling layer of RealNVP (Dinh et al., 2017)."""

    def __init__(self, width, hidden=64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width // 2, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x):
        kept, moved = x.chunk(2, -1)
        scale, shift = self.net(kept).chunk(2, -1)
        scale = torch.tanh(scale)
        return torch.cat([moved * scale.exp() + shift, kept], -1), scale.sum(-1)


class Flow(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(width) for _ in range(6))

    def forward(self, x):
        total = 0
        for layer in self.layers:
            x, log_determinant = layer(x)
            total = total + log_determinant
        return x, total


PLAIN = {
    "DDPM U-Net": lambda: (Diffusion(), (torch.randn(4, 3, 16, 16), torch.randint(0, 1000, (4,)))),
    "DiT, not zeroed": lambda: (DiT(), (torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,)))),
    "ShuffleNet": shufflenet,
    "SqueezeNet": squeezenet,
    "Inception": inception,
    "VGG-11": vgg,
    "DCGAN generator": generator,
    "TCN": tcn,
    "highway": lambda: (Highway(), (torch.randn(64, 32),)),
    "GAT": lambda: (GAT(), (torch.randn(24, 32),)),
    "GIN": lambda: (GIN(), (torch.randn(24, 32),)),
    "capsules": lambda: (Capsules(), (torch.randn(8, 1, 15, 15),)),
    "SIREN": lambda: (Sine(), (torch.rand(256, 2) * 2 - 1,)),
    "RealNVP": lambda: (Flow(), (torch.randn(64, 32),)),
}
