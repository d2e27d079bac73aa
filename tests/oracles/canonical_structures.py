"""Healthy networks for the fifth list: the plain ones that textbooks and model libraries begin with.

Each is a factory ``() -> (model, inputs, loss)``, written down before any rule had looked at it. Many hold something
that starts at zero on purpose (residual norms, SkipInit, LayerScale, adapters, adaptive norms, heads), or is frozen.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import VOCABULARY, words
from oracles.further_structures import labelled, smooth_images, zero
from oracles.verdicts import BATCH, CLASSES, he

PICTURES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}


def frozen(module):
    return module.requires_grad_(requires_grad=False)


# ---- perceptrons, sets, graphs ----


def digits():
    layers = (nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    return labelled(nn.Sequential(*layers), torch.rand(64, 1, 28, 28))


class Sets(nn.Module):
    """A sum over fifty elements between two networks (Zaheer et al., 2017)."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, x):
        return self.all(self.each(x).sum(1))


class Isomorphism(nn.Module):
    """GIN: sums over neighbours, an MLP with batch norm, a sum over the nodes of each graph (Xu et al., 2019)."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8 if at == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU())
            for at in range(depth)
        )
        self.epsilon = nn.Parameter(torch.zeros(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x, links):
        for layer, epsilon in zip(self.layers, self.epsilon, strict=True):
            y = (1 + epsilon) * x + links @ x
            x = layer(y.flatten(0, 1)).unflatten(0, y.shape[:2])
        return self.head(x.sum(1))


def graphs(nodes=12):
    links = (torch.rand(16, nodes, nodes) < 0.2).float().triu(1)
    return labelled(Isomorphism(), F.one_hot(torch.randint(0, 8, (16, nodes)), 8).float(), links + links.mT)


# ---- sequences ----


class Characters(nn.Module):
    def __init__(self, kind, width=64, layers=1, dropout=0.0, *, tied=False):
        super().__init__()
        self.embed, self.drop = nn.Embedding(VOCABULARY, width), nn.Dropout(dropout)
        self.read = kind(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)
        if tied:
            nn.init.uniform_(self.embed.weight, -0.1, 0.1)
            self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.drop(self.read(self.drop(self.embed(x)))[0]))


def following(model, length=30):
    x = words(16, length)
    return model, (x[:, :-1],), lambda y: F.cross_entropy(y.flatten(0, 1), x[:, 1:].flatten())


class Temporal(nn.Module):
    """A block of a temporal convolutional network: two dilated convolutions of normed weights (Bai et al., 2018)."""

    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.one = norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.two = norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.past, self.drop = (2 * dilation, 0), nn.Dropout(0.1)
        self.across = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = x
        for layer in (self.one, self.two):
            y = self.drop(F.relu(layer(F.pad(y, self.past))))
        return F.relu(self.across(x) + y)


def temporal():
    blocks = (Temporal(4 if at == 0 else 32, 32, 2**at) for at in range(5))
    return labelled(
        nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
        torch.randn(16, 4, 60),
    )


class Seq2Seq(nn.Module):
    """torch's transformer between sequences, with its masks, as its tutorial builds it."""

    def __init__(self, width=64):
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, width), nn.Embedding(VOCABULARY, width)
        self.body = nn.Transformer(width, 4, 3, 3, 128, batch_first=True)
        self.head, self.width = nn.Linear(width, VOCABULARY), width
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def places(self, length):
        angle = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, self.width, 2) / self.width)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    def forward(self, source, target):
        x, y = (
            embed(ids) * math.sqrt(self.width) + self.places(ids.shape[1])
            for embed, ids in ((self.source, source), (self.target, target))
        )
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        padding = source == 0
        return self.head(
            self.body(x, y, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        )


def translated():
    source, target = words(8, 14), words(8, 11)
    source[:4, 9:] = 0
    loss = lambda y: F.cross_entropy(y.flatten(0, 1), target[:, 1:].flatten())  # noqa: E731
    return Seq2Seq(), (source, target[:, :-1]), loss


class Block(nn.Module):
    """A pre-norm block with causal attention by torch's own function; ``scale`` is that of the scores."""

    def __init__(self, width, heads, scale=None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads, self.scale = heads, scale

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Tensors(nn.Module):
    """A language model in μP: queries and head start at zero, scores are divided by the width (Yang et al., 2022)."""

    def __init__(self, width=64, heads=4, depth=6, *, shared=False, small=True):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, width), nn.Parameter(0.02 * torch.randn(64, width))
        blocks = [Block(width, heads, heads / width if small else None) for _ in range(1 if shared else depth)]
        self.blocks = nn.ModuleList(blocks * depth if shared else blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)
        if small:
            zero(self.head)
            for block in blocks:
                zero(block.query)

    def forward(self, x):
        x = self.embed(x) + self.place[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


# ---- images ----


def vgg():
    layers, channels = [], 3
    for width in (16, "M", 32, "M", 48, 48, "M", 64, 64, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [he(nn.Conv2d(channels, width, 3, padding=1)), nn.ReLU(inplace=True)]
            channels = width
    head = [nn.Linear(64 * 4, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 128), nn.ReLU(), nn.Dropout()]
    return labelled(nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(128, CLASSES)), smooth_images(size=32))


class Bottleneck(nn.Module):
    """ResNet's, its last norm at zero; with ``skip`` no norms, and a learned factor at zero (De and Smith, 2020)."""

    def __init__(self, width, *, skip=False):
        super().__init__()
        sizes = ((width, width // 4, 1), (width // 4, width // 4, 3), (width // 4, width, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2, bias=skip) for a, b, k in sizes)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        self.norms = nn.ModuleList(nn.Identity() if skip else nn.BatchNorm2d(b) for _, b, _ in sizes)
        self.alpha = nn.Parameter(torch.zeros(())) if skip else None
        if not skip:
            nn.init.zeros_(self.norms[2].weight)

    def forward(self, x):
        y = x
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = F.relu(y) if at < 2 else y
        return F.relu(x + (y if self.alpha is None else self.alpha * y))


def bottlenecks(depth=6, *, skip=False, width=48):
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    body = nn.Sequential(*(Bottleneck(width, skip=skip) for _ in range(depth)))
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def tuned():
    """The stem and the first three blocks frozen, their statistics fixed."""
    model = bottlenecks()
    for part in (model[0], *model[1][:3]):
        frozen(part)
        part.eval()
    return labelled(model, smooth_images())


def padded(inputs, outputs, size):
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU())


class Inception(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.one, self.three = padded(inputs, 16, 1), nn.Sequential(padded(inputs, 12, 1), padded(12, 24, 3))
        self.five = nn.Sequential(padded(inputs, 6, 1), padded(6, 12, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), padded(inputs, 12, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Google(nn.Module):
    """Inception blocks with a second head half way, whose loss counts a third (Szegedy et al., 2015)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(padded(3, 32, 3), nn.MaxPool2d(2))
        self.lower, self.upper = nn.Sequential(Inception(32), Inception(64)), nn.Sequential(*map(Inception, (64, 64)))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(64, CLASSES))
            for _ in range(2)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he(module)

    def forward(self, x):
        x = self.lower(self.stem(x))
        return self.heads[1](self.upper(x)), self.heads[0](x)


def two_heads():
    target = torch.randint(0, CLASSES, (BATCH,))
    loss = lambda y: F.cross_entropy(y[0], target) + 0.3 * F.cross_entropy(y[1], target)  # noqa: E731
    return Google(), (smooth_images(),), loss


class Pix2Pix(nn.Module):
    """A U-Net with instance norms, a dropout and a tanh, its weights of deviation 0.02 (Isola et al., 2017)."""

    def __init__(self, width=16):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 4 * width]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            for inputs, outputs in ((4 * width, 4 * width), (8 * width, 2 * width), (4 * width, width), (2 * width, 3))
        )
        for layer in (*self.down, *self.up):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        kept = []
        for at, layer in enumerate(self.down):
            x = layer(x if at == 0 else F.leaky_relu(x, 0.2))
            x = F.instance_norm(x) if 0 < at < 3 else x
            kept.append(x)
        for at, layer in enumerate(self.up):
            x = layer(F.relu(x if at == 0 else torch.cat([x, kept[-1 - at]], 1)))
            x = F.dropout(F.instance_norm(x), 0.5, self.training) if at < 3 else x
        return torch.tanh(x)


def translated_images():
    target = 2 * smooth_images(size=32)[:8] - 1
    return Pix2Pix(), (2 * smooth_images(size=32)[:8] - 1,), lambda y: F.l1_loss(y, target)


class Pictures(nn.Module):
    """A convolutional variational autoencoder."""

    def __init__(self, width=16, codes=12):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.SiLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU(), nn.Flatten()
        )
        self.code, self.open = nn.Linear(2 * width * 16, 2 * codes), nn.Linear(codes, 2 * width * 16)
        self.decode = nn.Sequential(
            nn.SiLU(),
            nn.Unflatten(1, (2 * width, 4, 4)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
        )

    def forward(self, x):
        mean, log_variance = self.code(self.encode(x)).chunk(2, 1)
        return self.decode(self.open(mean + (log_variance / 2).exp() * torch.randn_like(mean))), mean, log_variance


def pictures():
    x = smooth_images(1)

    def loss(y):
        divergence = 0.5 * (y[1].square() + y[2].exp() - 1 - y[2]).sum(1)
        return F.binary_cross_entropy_with_logits(y[0], x, reduction="none").sum((1, 2, 3)).mean() + divergence.mean()

    return Pictures(), (x,), loss


class Adaptive(nn.Module):
    """A diffusion transformer's block: shift, scale and gate from a condition, all zero at first (Peebles, 2023)."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulate = nn.Sequential(nn.SiLU(), zero(nn.Linear(width, 6 * width)))

    def forward(self, x, condition):
        s1, a1, g1, s2, a2, g2 = self.modulate(condition)[:, None].chunk(6, -1)
        y = self.norm(x) * (1 + a1) + s1
        x = x + g1 * self.attend(y, y, y, need_weights=False)[0]
        return x + g2 * self.mlp(self.norm(x) * (1 + a2) + s2)


class Diffusion(nn.Module):
    def __init__(self, width=64, depth=4):
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, width, 4, 4), nn.Parameter(0.02 * torch.randn(16, width))
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks, self.norm = nn.ModuleList(Adaptive(width) for _ in range(depth)), nn.LayerNorm(width)
        self.out = zero(nn.Linear(width, 48))

    def forward(self, x, time):
        x, condition = self.patch(x).flatten(2).mT + self.place, self.time(time)
        for block in self.blocks:
            x = block(x, condition)
        return F.pixel_shuffle(self.out(self.norm(x)).mT.unflatten(2, (4, 4)), 4)


def noised():
    noise = torch.randn(16, 3, 16, 16)
    return Diffusion(), (smooth_images()[:16] + noise, torch.rand(16, 1)), lambda y: F.mse_loss(y, noise)
