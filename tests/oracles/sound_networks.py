"""Networks whose gradients are right, each with a reason why a check might think otherwise."""

from __future__ import annotations

import torch
from torch import nn


def _cross_entropy(logits):
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def _mean_square(out):
    return out.square().mean()


def linear_before_batch_norm():
    """The bias has no effect at all: its gradient is nothing but rounding."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))


def convolution_before_batch_norm():
    """The same for a convolution, with a kink behind it."""
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())


def transformer_layer():
    """Softmax doesn't feel a shift: a third of the projection's bias has no effect. Dropout is on."""
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def gelu_and_dropout():
    """Chance is involved."""
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 3))


def lstm():
    """Strongly curved, through time."""
    return nn.LSTM(4, 6, batch_first=True)


def rectified():
    """Some of 4096 rectifiers are always close to their kink."""
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def convolutional():
    """Kinks, ties that nearly are, and gradients that vanish, all at once."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, 3)),
    )


def deep_sigmoid():
    """The gradient fades over depth: the first layers' is 10⁻⁸ of the last one's."""
    return nn.Sequential(*(layer for _ in range(10) for layer in (nn.Linear(6, 6), nn.Sigmoid())), nn.Linear(6, 3))


#: Factory, shape of the input, loss.
NETWORKS = {
    "linear before batch norm": (linear_before_batch_norm, (6, 4), None),
    "convolution before batch norm": (convolution_before_batch_norm, (4, 2, 6, 6), None),
    "transformer layer": (transformer_layer, (2, 5, 8), None),
    "GELU and dropout": (gelu_and_dropout, (16, 8), _mean_square),
    "LSTM": (lstm, (2, 5, 4), None),
    "rectified": (rectified, (32, 32), _cross_entropy),
    "convolutional": (convolutional, (4, 3, 8, 8), _cross_entropy),
    "deep sigmoid": (deep_sigmoid, (8, 6), _cross_entropy),
}


def draw(name, dtype, seed=0):
    """The network, its input and its loss, drawn from the seed."""
    make, shape, loss = NETWORKS[name]
    torch.manual_seed(seed)
    return make().to(getattr(torch, dtype)), torch.randn(shape, dtype=getattr(torch, dtype)), loss
