"""Healthy networks for the seventh list: small models as they are written by hand.

Each is a factory ``() -> (model, inputs, loss)``, written down before any rule had looked at it. Some of them start at
zero, are sparse, or have a bias on purpose.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import VOCABULARY
from oracles.canonical_structures import digits, following
from oracles.further_structures import labelled, smooth_images, zero
from oracles.verdicts import BATCH, CLASSES, WIDTH, classify, he, plain
from oracles.verdicts_everyday import Recurrent


class Detector(nn.Module):
    """A pyramid of two scales, and a head whose bias says that objects are rare (Lin et al., 2017)."""

    def __init__(self, width=24):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.side, self.top = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 5, 3, padding=1))
        nn.init.normal_(self.head[2].weight, std=0.01)
        nn.init.constant_(self.head[2].bias, -math.log(99))

    def forward(self, x):
        low = self.low(x)
        high = self.top(self.high(low))
        low = self.side(low) + F.interpolate(high, scale_factor=2)
        return torch.cat([self.head(y).flatten(2) for y in (low, high)], 2)


def detected():
    target = (torch.rand(BATCH, 5, 80) < 0.02).float()

    def loss(y):
        p = torch.sigmoid(y)
        weight = torch.where(target > 0, 1 - p, p).square()
        return (weight * F.binary_cross_entropy_with_logits(y, target, reduction="none")).sum() / target.sum()

    return Detector(), (smooth_images(),), loss


class SkipGram(nn.Module):
    """word2vec: vectors of words are small, those of contexts start at zero (Mikolov et al., 2013)."""

    def __init__(self, width=50):
        super().__init__()
        self.word, self.context = nn.Embedding(500, width), nn.Embedding(500, width)
        nn.init.uniform_(self.word.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, word, contexts):
        return (self.context(contexts) @ self.word(word)[..., None]).squeeze(-1)


def skip_gram():
    target = torch.zeros(64, 6)
    target[:, 0] = 1
    ids = torch.randint(0, 500, (64,)), torch.randint(0, 500, (64, 6))
    return SkipGram(), ids, lambda y: F.binary_cross_entropy_with_logits(y, target)


class Factors(nn.Module):
    """Matrix factorisation with biases."""

    def __init__(self, width=16):
        super().__init__()
        self.user, self.item = nn.Embedding(100, width), nn.Embedding(200, width)
        self.of_user, self.of_item = zero_rows(nn.Embedding(100, 1)), zero_rows(nn.Embedding(200, 1))
        for embed in (self.user, self.item):
            nn.init.normal_(embed.weight, std=0.1)

    def forward(self, user, item):
        product = (self.user(user) * self.item(item)).sum(1)
        return product + self.of_user(user)[:, 0] + self.of_item(item)[:, 0]


def zero_rows(embed):
    nn.init.zeros_(embed.weight)
    return embed


def rated():
    target = torch.randint(1, 6, (64,)).float()
    ids = torch.randint(0, 100, (64,)), torch.randint(0, 200, (64,))
    return Factors(), ids, lambda y: F.mse_loss(y, target)


def logistic():
    """Logistic regression from zero, on standardised features."""
    return labelled(zero(nn.Linear(20, CLASSES)), torch.randn(BATCH, 20))


def identity_recurrence():
    model = Recurrent(nn.RNN, nonlinearity="relu")
    nn.init.eye_(model.rnn.weight_hh_l0)
    nn.init.normal_(model.rnn.weight_ih_l0, std=0.05)
    for bias in (model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
        nn.init.zeros_(bias)
    return labelled(model, torch.randn(BATCH, 40, 8))


def long_memory():
    """Forget gates by the length of the sequences (Tallec and Ollivier, 2018)."""
    model = Recurrent(nn.LSTM)
    with torch.no_grad():
        bias = torch.log(1 + 98 * torch.rand(32))
        model.rnn.bias_hh_l0.zero_()
        model.rnn.bias_ih_l0.copy_(torch.cat([-bias, bias, torch.zeros(64)]))
    return labelled(model, torch.randn(BATCH, 60, 8))


class Fast(nn.Module):
    """As speed records are set: normed queries and keys, squares of ReLUs, last layers of branches at zero."""

    def __init__(self, width=WIDTH, depth=6):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, width), zero(nn.Linear(width, VOCABULARY, bias=False))
        self.into = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(zero(nn.Linear(width, width, bias=False)) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width, bias=False) for _ in range(depth))
        self.down = nn.ModuleList(zero(nn.Linear(4 * width, width, bias=False)) for _ in range(depth))

    def forward(self, x):
        norm = lambda y: F.rms_norm(y, y.shape[-1:])  # noqa: E731
        x = norm(self.embed(x))
        for into, out, up, down in zip(self.into, self.out, self.up, self.down, strict=True):
            q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in into(norm(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(norm(q), norm(k), v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + down(F.relu(up(norm(x))).square())
        return 15 * torch.tanh(self.head(norm(x)) / 15)


class Rounded(nn.Module):
    """Weights and activations rounded to four bits, with the gradient passed straight through."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(he(nn.Linear(WIDTH, WIDTH)) for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    @staticmethod
    def rounded(x, steps=7):
        scale = x.detach().abs().max() / steps
        return x + (torch.round(x / scale) * scale - x).detach()

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(F.linear(self.rounded(x), self.rounded(layer.weight), layer.bias))
        return self.head(x)


def counted():
    """Counts of words, nearly all of them zero."""
    x = (torch.rand(BATCH, 2000) < 0.01).float() * torch.randint(1, 5, (BATCH, 2000))
    return labelled(nn.Sequential(nn.Linear(2000, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, CLASSES)), x)


def house_prices():
    """What is to be told is in the hundreds of thousands, and nobody scaled it."""
    target = 3e5 + 1e5 * torch.randn(64, 1)
    x = torch.randn(64, 13)
    return (
        nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)),
        (x,),
        lambda y: F.mse_loss(y, target),
    )


def pruned():
    """Nine in ten weights are zero, the others larger for it."""
    model = plain(5, nn.ReLU, math.sqrt(20))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.1)
    return classify(model, (WIDTH,))


class Bytes(nn.Module):
    """Pictures of bytes, scaled and centred in the model, a block with squeeze and excite, a head for each label."""

    def __init__(self, width=24):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, width, 3, 2), nn.Conv2d(width, width, 3)
        self.squeeze, self.excite = nn.Linear(width, 6), nn.Linear(6, width)
        self.heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(3))

    def forward(self, x):
        x = F.relu(self.stem((x / 255 - 0.45) / 0.22))
        x = F.relu(self.conv(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[..., None, None]
        return [head(x.mean((2, 3))) for head in self.heads]


def several_labels():
    targets = [torch.randint(0, 2, (BATCH,)) for _ in range(3)]
    loss = lambda y: sum(F.cross_entropy(a, b) for a, b in zip(y, targets, strict=True))  # noqa: E731
    return Bytes(), ((255 * smooth_images()).round(),), loss


def narrow():
    """An autoencoder through one number."""
    layers = (nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 1), nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 20))
    x = torch.randn(BATCH, 20)
    return nn.Sequential(*layers), (x,), lambda y: F.mse_loss(y, x)


HEALTHY_WORKSHOP = {
    "detector with a prior": detected,
    "word2vec, contexts at zero": skip_gram,
    "matrix factorisation": rated,
    "logistic regression from zero": logistic,
    "identity recurrence with ReLU": identity_recurrence,
    "long memory by forget biases": long_memory,
    "branches at zero, squares of ReLUs, capped logits": lambda: following(Fast()),
    "four bits, straight through": lambda: labelled(Rounded(), torch.randn(BATCH, WIDTH)),
    "sparse counts": counted,
    "prices that nobody scaled, told from features": house_prices,
    "nine in ten weights pruned": pruned,
    "bytes scaled in the model, three heads": several_labels,
    "autoencoder through one number": narrow,
    "digits in a batch of two": lambda: (digits()[0], (torch.rand(2, 1, 28, 28),), lambda y: y.logsumexp(1).mean()),
}
