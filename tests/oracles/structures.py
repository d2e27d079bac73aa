"""Healthy networks of other structures, written down after the rules were made: what they were not made for.

Each is a factory ``() -> (model, inputs, loss)``.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def given(model, *inputs):
    return model, inputs, lambda y: (y[0] if isinstance(y, tuple) else y).square().mean()


def conv(inputs, outputs, size=3):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class UNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.first, self.second, self.middle = conv(3, width), conv(width, 2 * width), conv(2 * width, 2 * width)
        self.up, self.join, self.last = (
            nn.ConvTranspose2d(2 * width, width, 2, 2),
            conv(2 * width, width),
            conv(width, 3, 1),
        )

    def forward(self, x):
        a = F.relu(self.first(x))
        b = F.relu(self.middle(F.relu(self.second(F.max_pool2d(a, 2)))))
        return self.last(F.relu(self.join(torch.cat([self.up(b), a], 1))))


class Dense(nn.Module):
    def __init__(self, depth=6, growth=12, width=16):
        super().__init__()
        widths = [width + at * growth for at in range(depth + 1)]
        self.stem, self.head = conv(3, width), nn.Linear(widths[-1], 5)
        self.layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), conv(w, growth)) for w in widths[:-1])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    def __init__(self, depth=6, tokens=16, width=32):
        super().__init__()
        self.tokens, self.channels = (
            nn.ModuleList(
                nn.Sequential(nn.LayerNorm(n), nn.Linear(n, 64), nn.GELU(), nn.Linear(64, n)) for _ in range(depth)
            )
            for n in (tokens, width)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        for mix, feed in zip(self.tokens, self.channels, strict=True):
            x = x + mix(x.transpose(1, 2)).transpose(1, 2)
            x = x + feed(x)
        return self.head(x.mean(1))


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.variance = (
            nn.Sequential(nn.Linear(64, 128), nn.ReLU()),
            nn.Linear(128, 8),
            nn.Linear(128, 8),
        )
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())

    def forward(self, x):
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.variance(h)
        return self.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())


class Denoiser(nn.Module):
    """A skip around everything."""

    def __init__(self, depth=10, width=24):
        super().__init__()
        inner = (part for _ in range(depth) for part in (conv(width, width), nn.BatchNorm2d(width), nn.ReLU()))
        self.net = nn.Sequential(conv(1, width), nn.ReLU(), *inner, conv(width, 1))

    def forward(self, x):
        return x - self.net(x)


class SuperResolution(nn.Module):
    """Residual blocks without normalisation, inside a longer skip."""

    def __init__(self, scale, depth=12, width=24):
        super().__init__()
        self.head, self.body, self.tail, self.scale = conv(3, width), conv(width, width), conv(width, 3), scale
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(depth)
        )

    def forward(self, x):
        x = self.head(x)
        h = x
        for block in self.blocks:
            h = h + self.scale * block(h)
        return self.tail(x + self.body(h))


class Highway(nn.Module):
    def __init__(self, depth=10, width=64):
        super().__init__()
        self.layers, self.gates = (nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(2))
        self.head = nn.Linear(width, 5)
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x):
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * F.relu(layer(x)) + (1 - share) * x
        return self.head(x)


def small(module):
    """As DCGAN starts: normal, 0.02."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)


def generator():
    widths, layers = [(16, 64, 1, 0), (64, 32, 2, 1)], []
    for inputs, outputs, stride, padding in widths:
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh()).apply(small)


def discriminator():
    layers = [nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for inputs, outputs in ((16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(64, 1, 4)).apply(small)


def policy():
    """Orthogonal, with a head of gain 0.01, as in policy gradients."""
    gains = (math.sqrt(2), math.sqrt(2), 0.01)
    layers = [nn.Linear(10, 64), nn.Linear(64, 64), nn.Linear(64, 4)]
    for layer, gain in zip(layers, gains, strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Sine(nn.Module):
    def __init__(self, depth=5, width=64, frequency=30.0):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width), *(nn.Linear(width, width) for _ in range(depth - 1))])
        self.head, self.frequency = nn.Linear(width, 1), frequency
        bound = math.sqrt(6 / width) / frequency
        for layer in (*self.layers[1:], self.head):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(self.layers[0].weight, -0.5, 0.5)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(self.frequency * layer(x))
        return self.head(x)


class Translator(nn.Module):
    """A recurrent encoder, and a decoder that looks back at it at every step."""

    def __init__(self, width=32, vocabulary=30):
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(vocabulary, width), nn.LSTM(width, width, batch_first=True)
        self.decoder, self.head = nn.LSTMCell(2 * width, width), nn.Linear(2 * width, vocabulary)

    def forward(self, source, target):
        states, (h, c) = self.encoder(self.embedding(source))
        h, c, context, said = h[0], c[0], h[0], []
        for step in range(target.shape[1]):
            h, c = self.decoder(torch.cat([self.embedding(target[:, step]), context], 1), (h, c))
            weights = (states @ h[:, :, None])[:, :, 0].softmax(1)
            context = (weights[:, :, None] * states).sum(1)
            said.append(self.head(torch.cat([h, context], 1)))
        return torch.stack(said, 1)


class Experts(nn.Module):
    def __init__(self, width=32, count=4):
        super().__init__()
        self.gate, self.head = nn.Linear(width, count), nn.Linear(width, 5)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width)) for _ in range(count)
        )

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return self.head(x + sum(weights[:, at : at + 1] * expert(x) for at, expert in enumerate(self.experts)))


def stack(depth, width=32):
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), nn.SiLU())))


class Controlled(nn.Module):
    """A frozen network, and a copy beside it whose last layer starts at zero."""

    def __init__(self, width=32):
        super().__init__()
        self.frozen, self.control = stack(3).requires_grad_(requires_grad=False), stack(3)
        self.control.load_state_dict(self.frozen.state_dict())
        self.zero, self.head = nn.Linear(width, width), nn.Linear(width, 5)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)

    def forward(self, x):
        return self.head(self.frozen(x) + self.zero(self.control(x)))


def lenet(activation):
    first = (
        nn.Conv2d(1, 6, 5, padding=2),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        activation(),
        nn.AvgPool2d(2),
    )
    return nn.Sequential(
        *first, nn.Flatten(), nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)
    )


def alexnet():
    widths, layers = (3, 32, 64, 96, 64, 64), []
    for at, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [conv(inputs, outputs), nn.ReLU(inplace=True)] + ([nn.MaxPool2d(2)] if at in {0, 1} else [])
    head = (
        nn.Dropout(),
        nn.Linear(576, 128),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 5),
    )
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), *head)


def normed(depth, activation, norm):
    layers = [part for _ in range(depth) for part in (nn.Linear(64, 64), norm(64), activation())]
    return nn.Sequential(*layers, nn.Linear(64, 5))


STRUCTURES = {
    "U-Net": lambda: given(UNet(), torch.randn(4, 3, 16, 16)),
    "DenseNet": lambda: given(Dense(), torch.randn(8, 3, 12, 12)),
    "MLP-Mixer": lambda: given(Mixer(), torch.randn(8, 16, 32)),
    "variational autoencoder": lambda: given(Variational(), torch.randn(16, 64)),
    "denoiser": lambda: given(Denoiser(), torch.randn(4, 1, 16, 16)),
    "super-resolution": lambda: given(SuperResolution(1.0), torch.randn(4, 3, 12, 12)),
    "super-resolution, scaled branches": lambda: given(SuperResolution(0.1), torch.randn(4, 3, 12, 12)),
    "highway network": lambda: given(Highway(), torch.randn(16, 64)),
    "DCGAN, generator": lambda: given(generator(), torch.randn(8, 16, 1, 1)),
    "DCGAN, discriminator": lambda: given(discriminator(), torch.randn(8, 3, 32, 32)),
    "policy": lambda: given(policy(), torch.randn(32, 10)),
    "SIREN": lambda: given(Sine(), torch.rand(64, 2) * 2 - 1),
    "translator": lambda: given(Translator(), torch.randint(0, 30, (8, 10)), torch.randint(0, 30, (8, 12))),
    "mixture of experts": lambda: given(Experts(), torch.randn(16, 32)),
    "ControlNet": lambda: given(Controlled(), torch.randn(16, 32)),
    "LeNet, tanh": lambda: given(lenet(nn.Tanh), torch.randn(16, 1, 28, 28)),
    "LeNet, sigmoid": lambda: given(lenet(nn.Sigmoid), torch.rand(16, 1, 28, 28)),
    "AlexNet": lambda: given(alexnet(), torch.randn(8, 3, 32, 32)),
    "MLP with batch norm, 20 layers": lambda: given(normed(20, nn.ReLU, nn.BatchNorm1d), torch.randn(32, 64)),
    "MLP with layer norm, bfloat16": lambda: given(
        normed(8, nn.GELU, nn.LayerNorm).bfloat16(), torch.randn(16, 64).bfloat16()
    ),
    "torch's transformer": lambda: given(
        nn.Transformer(32, 4, 2, 2, 64, batch_first=True), torch.randn(4, 6, 32), torch.randn(4, 5, 32)
    ),
    "torch's attention": lambda: given(nn.MultiheadAttention(32, 4, batch_first=True), *[torch.randn(4, 6, 32)] * 3),
    "torch's GRU, three layers, time first": lambda: given(nn.GRU(16, 32, 3), torch.randn(20, 4, 16)),
    "torch's RNN with ReLU": lambda: given(
        nn.RNN(16, 32, 2, nonlinearity="relu", batch_first=True), torch.randn(4, 20, 16)
    ),
    "torch's LSTM, both directions": lambda: given(
        nn.LSTM(16, 32, 2, bidirectional=True, batch_first=True), torch.randn(4, 20, 16)
    ),
}
