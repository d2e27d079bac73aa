"""The mistakes of the fifth list, each in a plain network: see oracles/verdicts_canonical.py."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import VOCABULARY
from oracles.canonical_structures import Characters, following, vgg
from oracles.further_structures import labelled
from oracles.verdicts import BATCH, CLASSES, WIDTH, changed, he, plain, spread
from oracles.verdicts_blind import altered, at

# ---- vanishing ----


def plain_convolutions(depth=30, width=16):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Copying(nn.Module):
    """What is read at the first of many steps decides, at the last of them."""

    def __init__(self, width=32, deviation=0.05):
        super().__init__()
        self.rnn, self.head = nn.RNN(8, width, batch_first=True), nn.Linear(width, CLASSES)
        nn.init.normal_(self.rnn.weight_hh_l0, std=deviation)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Skipless(nn.Module):
    """A transformer whose blocks forget what came in."""

    def __init__(self, depth=12, width=WIDTH):
        super().__init__()
        self.attends = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        for attend, mlp in zip(self.attends, self.mlps, strict=True):
            x = mlp(attend(x, x, x, need_weights=False)[0])
        return self.head(x.mean(1))


def faint_embeddings(model, inputs, loss):
    """Embeddings of words and places that are a hundred thousandth of what they should be."""

    def change(model):
        for name in ("wte", "wpe"):
            at(model, f"transformer.{name}.weight").mul_(1e-5)

    return altered((model, inputs, loss), change)


def all_zero():
    model = plain(4, nn.ReLU)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


# ---- exploding ----


class Flow(nn.Module):
    """An equation in sixty steps of one, whose field is not small."""

    def __init__(self, steps=60, width=32):
        super().__init__()
        self.stem, self.field = nn.Linear(WIDTH, width), nn.Sequential(nn.Linear(width, width), nn.ELU())
        nn.init.normal_(self.field[0].weight, std=1.5 / math.sqrt(width))
        self.head, self.steps = nn.Linear(width, CLASSES), steps

    def forward(self, x):
        x = self.stem(x)
        for _ in range(self.steps):
            x = x + self.field(x)
        return self.head(x)


def autoencoder(activation=nn.ReLU):
    sizes = (WIDTH, 48, 24, 8, 24, 48)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (he(nn.Linear(a, b)), activation())]
    return nn.Sequential(*layers, nn.Linear(48, WIDTH))


def reconstruct(model):
    x = torch.randn(BATCH, WIDTH)
    return model, (x,), lambda y: F.mse_loss(y, x)


def unscaled_sums(nodes=400):
    """Every node sums over all others in five layers, where the mean was meant."""

    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(he(nn.Linear(16, 16)) for _ in range(5))
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x, links):
            for layer in self.layers:
                x = F.relu(layer(links @ x))
            return self.head(x)

    links = (torch.rand(nodes, nodes) < 0.5).float()
    return labelled(Summing(), torch.randn(nodes, 16), ((links + links.T) > 0).float())


# ---- dead and saturated ----


def lowered(model, path, bias=-10.0):
    return changed(model, path, lambda layer: layer.bias.fill_(bias))


def lenet(activation=nn.Tanh):
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), activation(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), activation(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, CLASSES)),
    )


class Unscaled(nn.Module):
    """Attention by hand between normed positions, with unit queries and keys and no root of their length."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (spread(nn.Linear(width, width), 1.5) for _ in range(3))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        y = self.norm(x)
        weights = torch.softmax(self.query(y) @ self.key(y).mT, -1)
        return self.head((x + weights @ self.value(y)).mean(1))


def binary_head():
    """A softmax over the one output of a net that tells two classes apart: it is always one."""
    model = nn.Sequential(he(nn.Linear(WIDTH, 32)), nn.ReLU(), nn.Linear(32, 1), nn.Softmax(dim=1))
    target = torch.randint(0, 2, (BATCH, 1)).float()
    return model, (torch.randn(BATCH, WIDTH),), lambda y: F.mse_loss(y, target)


def prices():
    """A long short-term memory over prices in their thousands."""
    return labelled(Reader(), 4000 + 500 * torch.randn(BATCH, 20, 8))


class Reader(nn.Module):
    """A long short-term memory, and a head on its last output."""

    def __init__(self, width=32):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, width, batch_first=True), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def sure_decoder():
    model = nn.Sequential(he(nn.Linear(WIDTH, 32)), nn.ReLU(), nn.Linear(32, WIDTH), nn.Sigmoid())
    changed(model, "2", lambda layer: layer.weight.mul_(300))
    target = torch.rand(BATCH, WIDTH)
    return model, (torch.randn(BATCH, WIDTH),), lambda y: F.mse_loss(y, target)


# ---- collapsed and cloned ----


class Pooled(nn.Module):
    """A group norm of one channel a group, behind a pool to one pixel: each number less itself."""

    def __init__(self, width=32):
        super().__init__()
        self.conv, self.norm = he(nn.Conv2d(3, width, 3)), nn.GroupNorm(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(F.relu(self.norm(F.relu(self.conv(x)).mean((2, 3), keepdim=True))).flatten(1))


def dropped():
    return nn.Sequential(
        *(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Dropout(1.0)),
        *(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, CLASSES)),
    )


def equal(model, path, value):
    def change(layer):
        layer.weight.fill_(value)
        layer.bias.zero_()

    return changed(model, path, change)


def equal_gates():
    """Every weight of a recurrent layer set to one number."""
    case = following(Characters(nn.GRU))

    def change(model):
        for parameter in model.read.parameters():
            parameter.fill_(0.05)

    return altered(case, change)


# ---- not finite ----


class Between(nn.Module):
    """A function between a net and its head."""

    def __init__(self, function, gain=1.0):
        super().__init__()
        self.body, self.function = nn.Sequential(he(nn.Linear(WIDTH, 32)), nn.ReLU(), nn.Linear(32, 16)), function
        self.head = nn.Linear(16, CLASSES)
        with torch.no_grad():
            self.body[2].weight.mul_(gain)

    def forward(self, x):
        return self.head(self.function(self.body(x)))


def by_hand(x):
    """Batch norm without anything against a feature that is constant."""
    x = torch.relu(x - 100)
    return (x - x.mean(0)) / x.std(0)


class LeftPadded(nn.Module):
    """A causal mask and one of padding at the left: the first positions may look at nothing."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids):
        x, length = self.embed(ids), ids.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril() & (ids != 0)[:, None]
        scores = self.query(x) @ self.key(x).mT / math.sqrt(x.shape[-1])
        return self.head(x + torch.softmax(scores.masked_fill(~allowed, -math.inf), -1) @ self.value(x))


def left_padded():
    ids = torch.randint(1, VOCABULARY, (8, 12))
    ids[2, :3] = 0
    return LeftPadded(), (ids,), lambda y: F.cross_entropy(y[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def half_inputs():
    """Bytes through half precision and weights of deviation one: the second layer overflows."""
    model = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES))
    nn.init.normal_(model[2].weight)
    target = torch.randint(0, CLASSES, (BATCH,))
    x = 255 * torch.rand(BATCH, WIDTH)
    nn.init.normal_(model[0].weight)
    return model.half(), (x.half(),), lambda y: F.cross_entropy(y.float(), target)


def counts():
    """Poisson rates by an exponential, of features in their thousands."""
    model = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 8), Exponential())
    target = torch.randint(0, 9, (BATCH, 8)).float()
    return model, (3000 * torch.rand(BATCH, WIDTH),), lambda y: F.poisson_nll_loss(y, target, log_input=False)


class Exponential(nn.Module):
    def forward(self, x):
        return torch.exp(x)


def infinite_weight():
    return altered(vgg(), lambda model: at(model, "6.weight")[0, 0].fill_(math.inf))
