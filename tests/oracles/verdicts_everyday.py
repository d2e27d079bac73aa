"""A sixth list of networks whose signal is known: mistakes that people make every day, many in public architectures.

As in oracles/verdicts_canonical.py, what a sick one should be found to have, and where, follows from how it was made,
and was written down before any rule had looked at it. The healthy ones are in oracles/everyday_structures.py.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import words
from oracles.canonical_public import vit, whisper
from oracles.canonical_structures import Sets
from oracles.everyday_structures import (
    HEALTHY_EVERYDAY,
    bert,
    llama,
    mobilenet,
    neighbours,
    reconstructed,
)
from oracles.further_structures import labelled, smooth_images
from oracles.structures import Mixer
from oracles.verdicts import BATCH, CLASSES, WIDTH, classify, he, plain, resnet
from oracles.verdicts_blind import altered, at

__all__ = ["HEALTHY_EVERYDAY", "SICK_EVERYDAY"]


def drawn(model, deviation):
    """Every weight from a normal of one deviation, every bias zero."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def scaled(case, path, factor):
    return altered(case, lambda model: at(model, path).mul_(factor))


def filled(case, path, value):
    return altered(case, lambda model: at(model, path).fill_(value))


# ---- depth ----


def sigmoid_convolutions(depth=12, width=16):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.Sigmoid()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Recurrent(nn.Module):
    def __init__(self, kind, inputs=8, width=32, **options):
        super().__init__()
        self.rnn, self.head = kind(inputs, width, batch_first=True, **options), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def growing():
    model = Recurrent(nn.RNN, nonlinearity="relu")
    nn.init.orthogonal_(model.rnn.weight_hh_l0, 2.0)
    return labelled(model, torch.randn(BATCH, 50, 8))


def forgetting():
    model = Recurrent(nn.RNN)
    return altered(labelled(model, torch.randn(BATCH, 50, 8)), lambda m: m.rnn.weight_hh_l0.mul_(0.1))


# ---- one layer ----


def stale_statistics():
    """A net in evaluation mode, one batch norm of which has a running variance of 1e10."""
    model = resnet(zero=False)
    for _ in range(3):
        model(torch.randn(16, 3, 16, 16))
    model.eval()
    model[1].running_var.fill_(1e10)
    return classify(model, (3, 16, 16))


def broken_statistics():
    model = resnet(zero=False)
    for _ in range(3):
        model(torch.randn(16, 3, 16, 16))
    model.eval()
    model[4].norm1.running_mean.fill_(math.nan)
    return classify(model, (3, 16, 16))


def mixer():
    x, target = torch.randn(8, 16, 32), torch.randint(0, 5, (8,))
    return scaled((Mixer(), (x,), lambda y: F.cross_entropy(y, target)), "tokens.3.3.weight", 1e5)


def loud_sets():
    """Sets of ten thousand, summed where the mean was meant, before a tanh."""
    model = Sets()
    model.all[1] = nn.Tanh()
    return model


class Router(nn.Module):
    """Experts weighed by a softmax at a temperature."""

    def __init__(self, temperature, *, copied=False):
        super().__init__()
        self.route = nn.Linear(WIDTH, 4)
        experts = [nn.Sequential(he(nn.Linear(WIDTH, 48)), nn.ReLU(), nn.Linear(48, CLASSES)) for _ in range(4)]
        self.experts = nn.ModuleList(copy.deepcopy(experts[0]) if copied else expert for expert in experts)
        self.temperature, self.copied = temperature, copied

    def forward(self, x):
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        if self.copied:
            return outputs.mean(1)
        return (F.softmax(self.route(x) / self.temperature, 1)[..., None] * outputs).sum(1)


def two_critics():
    """Two critics side by side, the second made by copying the first."""

    class Critics(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 16, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, 2))
            self.second = copy.deepcopy(self.first)

        def forward(self, x):
            return self.first(x).mean((1, 2, 3)) + self.second(x).mean((1, 2, 3))

    return Critics(), (smooth_images(),), lambda y: F.softplus(-y).mean()


class Masked(nn.Module):
    """Words times a mask, which was turned round: every word is taken for padding."""

    def __init__(self, width=32):
        super().__init__()
        self.embed, self.read = nn.Embedding(50, width, padding_idx=0), nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids):
        x = self.embed(ids.masked_fill(ids != 0, 0))
        return self.head(torch.relu(self.read(x)).mean(1))


# ---- not finite ----


class Applied(nn.Module):
    """Two layers, a module of the user's, and a head."""

    def __init__(self, inner, gain=1.0, width=16):
        super().__init__()
        self.one, self.two, self.inner = he(nn.Linear(WIDTH, 32)), nn.Linear(32, width), inner
        self.head = nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.two.weight.mul_(gain)

    def forward(self, x):
        return self.head(self.inner(self.two(torch.relu(self.one(x)))))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def applied(function, gain=1.0):
    return labelled(Applied(Function(function), gain), torch.randn(BATCH, WIDTH))


class Wide(nn.Module):
    """A variational autoencoder whose log-variances start at two hundred."""

    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(WIDTH, 32), nn.Linear(32, 8), nn.Linear(32, 8)
        self.decode = nn.Linear(8, WIDTH)
        nn.init.constant_(self.spread.bias, 200)

    def forward(self, x):
        y = torch.relu(self.encode(x))
        mean, spread = self.mean(y), torch.exp(self.spread(y))
        return self.decode(mean + spread * torch.randn_like(mean))


class Distance(nn.Module):
    """The distance of two codes, by a root, of pairs some of which are the same picture twice."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, one, two):
        return torch.sqrt((self.net(one) - self.net(two)).square().sum(1))


def pairs():
    one, two = smooth_images(), smooth_images()
    two[:4] = one[:4]
    return Distance(), (one, two), lambda y: y.mean()


def standardised():
    """Features standardised within the model, one of which is the same everywhere."""
    x = torch.randn(BATCH, WIDTH)
    x[:, 3] = 1
    model = nn.Sequential(Function(lambda y: (y - y.mean(0)) / y.std(0)), *plain(3, nn.ReLU))
    return labelled(model, x)


_ATTENTION = "model.layers.2.self_attn"
_EXPERTS = {f"experts.{e}.{layer}.{name}" for e in range(4) for layer in (0, 2) for name in ("weight", "bias")}

SICK_EVERYDAY = {
    # over depth: the ends of the way
    "ten tanh of deviation 0.01": (
        lambda: classify(drawn(plain(10, nn.Tanh), 0.01), (WIDTH,)),
        {"S201", "S203"},
        {"0", "18"},
    ),
    "ten ReLU of deviation one": (
        lambda: classify(drawn(plain(10, nn.ReLU), 1.0), (WIDTH,)),
        {"S202", "S204"},
        {"0", "18"},
    ),
    "twelve convolutions with sigmoids": (lambda: labelled(sigmoid_convolutions(), smooth_images()), {"S203"}, {"0"}),
    "a recurrent net with ReLU that grows": (growing, {"S202", "S204"}, {"rnn"}),
    "a recurrent net that forgets at once": (forgetting, {"S203"}, {"rnn"}),
    # one layer
    "a ViT with faint patches": (
        lambda: scaled(vit(), "vit.embeddings.patch_embeddings.projection.weight", 1e-6),
        {"S201", "S203", "S207"},
        {"vit.embeddings.patch_embeddings.projection"},
    ),
    "a net with stale statistics": (stale_statistics, {"S201"}, {"1"}),
    "a mixer with one loud branch": (
        mixer,
        {"S202", "S204"},
        {"tokens.3.3", "+ #6"},
    ),
    "a MobileNet with a projection of zeros": (
        lambda: filled(mobilenet(), "mobilenet_v2.layer.0.reduce_1x1.convolution.weight", 0.0),
        {"S201", "S203", "S205", "S207"},
        {f"mobilenet_v2.layer.0.reduce_1x1.{part}" for part in ("convolution", "normalization")},
    ),
    # dead
    "a ResNet dead behind its stem": (
        lambda: altered(classify(resnet(zero=False), (3, 16, 16)), lambda model: model[1].bias.fill_(-6)),
        {"S201", "S205"},
        {"1", "2"},
    ),
    "a Whisper dead in one layer of its encoder": (
        lambda: filled(whisper(), "model.encoder.layers.1.fc1.bias", -12.0),
        {"S205"},
        {"model.encoder.layers.1.fc1", "model.encoder.layers.1.activation_fn", "model.encoder.layers.1.gelu()"},
    ),
    "an autoencoder dead in its middle": (
        lambda: filled(reconstructed(), "2.bias", -10.0),
        {"S201", "S205"},
        {"2", "3"},
    ),
    # saturated
    "a Llama with loud queries": (
        lambda: scaled(llama(), f"{_ATTENTION}.q_proj.weight", 1e3),
        {"S206"},
        {f"{_ATTENTION}.{part}" for part in ("scaled_dot_product_attention()", "softmax()", "q_proj")} | {_ATTENTION},
    ),
    "a BERT whose pooler is at its bounds": (
        lambda: scaled(bert(), "bert.pooler.dense.weight", 500),
        {"S206"},
        {"bert.pooler.dense", "bert.pooler.activation"},
    ),
    "raw features before a sigmoid": (
        lambda: labelled(
            nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, CLASSES)), 1e4 * torch.rand(64, 8)
        ),
        {"S206"},
        {"0", "1"},
    ),
    "sums over ten thousand before a tanh": (
        lambda: labelled(loud_sets(), torch.randn(8, 10000, 8)),
        {"S206"},
        {"all.0", "all.1"},
    ),
    "a router at a temperature of 1e-4": (
        lambda: labelled(Router(1e-4), torch.randn(BATCH, WIDTH)),
        {"S206"},
        {"softmax()", "route"},
    ),
    "an LSTM with loud recurrent weights": (
        lambda: altered(
            labelled(Recurrent(nn.LSTM), torch.randn(BATCH, 30, 8)), lambda model: model.rnn.weight_hh_l0.mul_(60)
        ),
        {"S206", "S204", "S203"},
        {"rnn"},
    ),
    # collapsed and cloned
    "all words taken for padding": (
        lambda: labelled(Masked(), words(BATCH, 10) % 49 + 1),
        {"S201", "S207"},
        {"embed", "read"},
    ),
    "experts that are copies, averaged": (
        lambda: labelled(Router(1.0, copied=True), torch.randn(BATCH, WIDTH)),
        {"S208"},
        _EXPERTS,
    ),
    "two critics that are copies": (
        two_critics,
        {"S208"},
        {
            f"{critic}.{layer}.{name}"
            for critic in ("first", "second")
            for layer in (0, 2)
            for name in ("weight", "bias")
        },
    ),
    # not finite
    "running statistics that are NaN": (broken_statistics, {"S211"}, {"4.norm1"}),
    "a log-variance of two hundred": (
        lambda: (Wide(), (torch.randn(BATCH, WIDTH),), lambda y: y.square().mean()),
        {"S211"},
        {"exp()"},
    ),
    "softplus by hand": (lambda: applied(lambda x: torch.log(1 + torch.exp(x)), 300.0), {"S211"}, {"inner"}),
    "the logarithm of what a sigmoid leaves": (
        lambda: applied(lambda x: torch.log(1 - torch.sigmoid(x)), 100.0),
        {"S211"},
        {"inner"},
    ),
    "a feature that is the same everywhere": (standardised, {"S211"}, {"0"}),
    "a node without neighbours": (lambda: neighbours(alone=False), {"S211"}, {"softmax()"}),
    "the distance of a picture to itself, backwards": (pairs, {"S211"}, {"sqrt()"}),
    "a root of masked squares in a module, backwards": (
        lambda: applied(lambda x: x + (x * (x > 0)).square().sqrt()),
        {"S211"},
        {"inner"},
    ),
    "an angle whose cosine is rounded to one, backwards": (
        lambda: applied(lambda x: torch.acos(torch.tanh(30 * x))),
        {"S211"},
        {"inner"},
    ),
}
