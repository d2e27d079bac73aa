"""Networks whose signal is known to be sound or not, in several architectures."""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTH, CLASSES, BATCH = 32, 10, 32


def he(layer):
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def xavier(layer):
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)


def default(_layer):
    """As torch initialises it."""


def scaled(factor):
    def initialise(layer):
        nn.init.normal_(layer.weight, std=factor / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)

    return initialise


def mlp(depth, activation, initialise, width=WIDTH):
    layers, inputs = [], WIDTH
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), activation()]
        initialise(layers[-2])
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.first_norm, self.second_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x):
        inner = self.activation(self.first_norm(self.first(x)))
        return self.activation(x + self.second_norm(self.second(inner)))


def resnet():
    stem = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return nn.Sequential(
        *stem, *(Residual(8) for _ in range(5)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def vgg():
    layers, channels = [], 3
    for block in (16, 32, 64):
        for _ in range(2):
            layers += [nn.Conv2d(channels, block, 3, padding=1), nn.ReLU(inplace=True)]
            he(layers[-2])
            channels = block
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, CLASSES))


def transformer(*, norm_first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def vectors():
    return torch.randn(BATCH, WIDTH)


def images():
    return torch.randn(BATCH, 3, 8, 8)


def sequences():
    return torch.randn(BATCH, 5, 16)


#: Nothing that matters may be found in these, whatever the seed (nn.TransformerEncoder's layers are copies: a note).
SOUND = {
    "20 ReLU layers, He": (lambda: mlp(20, nn.ReLU, he), vectors),
    "20 narrow ReLU layers, He": (lambda: mlp(20, nn.ReLU, he, width=16), vectors),
    "20 tanh layers, Xavier": (lambda: mlp(20, nn.Tanh, xavier), vectors),
    "20 linear layers, Xavier": (lambda: mlp(20, nn.Identity, xavier), vectors),
    "3 ReLU layers, torch's default": (lambda: mlp(3, nn.ReLU, default), vectors),
    "3 tanh layers, torch's default": (lambda: mlp(3, nn.Tanh, default), vectors),
    "3 sigmoid layers, torch's default": (lambda: mlp(3, nn.Sigmoid, default), vectors),
    "residual network with batch norm": (resnet, images),
    "VGG, He": (vgg, images),
    "transformer, post-norm": (lambda: transformer(norm_first=False), sequences),
    "transformer, pre-norm": (lambda: transformer(norm_first=True), sequences),
}
#: Exactly these must be found, whatever the seed.
ILL = {
    "20 sigmoid layers, torch's default": (lambda: mlp(20, nn.Sigmoid, default), vectors, {"S203", "S207"}),
    "20 ReLU layers, torch's default": (lambda: mlp(20, nn.ReLU, default), vectors, {"S203", "S207"}),
    "20 ReLU layers, far too large": (lambda: mlp(20, nn.ReLU, scaled(3.0)), vectors, {"S202", "S204"}),
    "6 ReLU layers, far too large": (lambda: mlp(6, nn.ReLU, scaled(5.0)), vectors, {"S202", "S204"}),
    "20 ReLU layers, far too small": (lambda: mlp(20, nn.ReLU, scaled(0.3)), vectors, {"S201", "S203"}),
    "20 tanh layers, far too large": (lambda: mlp(20, nn.Tanh, scaled(5.0)), vectors, {"S204", "S206"}),
}
