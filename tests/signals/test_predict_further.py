"""Structures of further public architectures, against the same model drawn and measured many times."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.prediction.predict import predict
from oracles.drawn_networks import agreement


class Latents(nn.Module):
    """Learned queries that are normed and projected before they attend (Perceiver)."""

    def __init__(self, width=64):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(8, width) * 0.5)
        self.norm, self.query = nn.LayerNorm(width), nn.Linear(width, width)
        self.key, self.value, self.head = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 8)

    def forward(self, x):
        query = self.query(self.norm(self.latents.expand(len(x), -1, -1)))
        return self.head(functional.scaled_dot_product_attention(query, self.key(x), self.value(x)))


class Timed(nn.Module):
    """Sines of a time, which layers take, added to the channels; the table of frequencies is used elsewhere as well."""

    def __init__(self, width=64):
        super().__init__()
        self.register_buffer("rates", torch.exp(-torch.arange(16) / 4.0))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.head = nn.Linear(16, width), nn.Linear(width, 8)

    def forward(self, x, t):
        angles = t[:, None].float() * self.rates
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        return self.head(torch.relu(self.first(x * self.rates) + time))


class JoinedGroups(nn.Module):
    """Channels of different sizes side by side before a group norm (U-Net)."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(3, 32, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(8, 64), nn.Conv2d(64, 8, 3, padding=1)

    def forward(self, x):
        return self.head(functional.silu(self.norm(torch.cat([3 * self.large(x), 0.5 * self.small(x)], 1))))


class JoinedRectified(nn.Module):
    """Rectified branches side by side before a max pool (Inception)."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 1, bias=False), nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(2))
        self.pool, self.head = nn.MaxPool2d(3, 1, 1), nn.Conv2d(64, 8, 3, padding=1)

    def forward(self, x):
        branches = [torch.relu(norm(conv(x))) for norm, conv in zip(self.norms, (self.one, self.two), strict=True)]
        return self.head(self.pool(torch.cat(branches, 1)))


class Rounded(nn.Module):
    """Rounded, with the gradient passed straight through."""

    def __init__(self):
        super().__init__()
        self.first, self.aside, self.head = nn.Linear(32, 128), nn.Linear(32, 128), nn.Linear(128, 8)

    def forward(self, x):
        y = self.first(x)
        y = y + (torch.round(3 * y) / 3 - y).detach()
        return self.head(y * torch.sigmoid(self.aside(x)).detach())


class Coded(nn.Module):
    """The nearest of a table's rows in place of each, as VQ-VAE has it."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.codes, self.head = nn.Linear(32, width), nn.Embedding(64, width), nn.Linear(width, 8)

    def forward(self, x):
        y = self.first(x)
        table = self.codes.weight
        distance = y.square().sum(1, keepdim=True) - 2 * y @ table.T + table.square().sum(1)
        return self.head(y + (self.codes(distance.argmin(1)) - y).detach())


class WithoutSoftmax(nn.Module):
    """Attention by positive features, keys with values first."""

    def __init__(self, width=64):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 8)

    def forward(self, x):
        query, key = (functional.elu(layer(x)) + 1 for layer in (self.query, self.key))
        state = key.transpose(1, 2) @ self.value(x)
        norm = (query * key.sum(1, keepdim=True)).sum(-1, keepdim=True)
        return self.head((query @ state) / norm)


class LessItself(nn.Module):
    """What is around, less what is in the middle, beside the stream (PoolFormer)."""

    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.head = nn.Conv2d(32, 8, 1)

    def forward(self, x):
        y = self.first(x)
        return self.head(self.scale(functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y))


class Grouped(nn.Module):
    """Rows sorted by their expert and multiplied by its weights in one operation (Mixtral)."""

    def __init__(self, width=64):
        super().__init__()
        self.first, self.head = nn.Linear(32, width), nn.Linear(width, 8)
        self.weights = nn.Parameter(torch.randn(4, width, width) / width**0.5)
        self.register_buffer("ends", torch.tensor([8, 20, 40, 48], dtype=torch.int32))

    def forward(self, x):
        return self.head(torch.relu(torch._grouped_mm(self.first(x), self.weights, offs=self.ends)))


class WrittenTwice(nn.Module):
    """Parts of products of queries and keys written over parts of a tensor across two axes (Longformer)."""

    def __init__(self, width=64):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 8)

    def forward(self, x):
        query, key, value = (layer(x).view(len(x), 4, 4, 64) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / 8
        made = scores.new_zeros(len(x), 4, 4, 6)
        made[:, :, :, 1:5] = scores
        made[:, :, 1:, :2] = scores[:, :, :3, 2:]
        return self.head(torch.softmax(made, -1)[..., :4] @ value).flatten(1, 2)


class Spatial(nn.Module):
    """Attention between more pixels than are told apart, spelled out, with a dropout on its weights (CvT)."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.qkv = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 3 * width)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(width, 8)

    def forward(self, x):
        query, key, value = self.qkv(self.first(x).flatten(2).transpose(1, 2)).chunk(3, -1)
        weights = functional.softmax(query @ key.transpose(1, 2) / 32**0.5, -1)
        return self.head(self.drop(weights) @ value)


def images():
    return (torch.randn(8, 3, 8, 8),)


CASES = {
    "learned queries": (Latents, lambda: (torch.randn(4, 12, 64),), 0.03, 0.08),
    "a time as sines": (Timed, lambda: (torch.randn(32, 16), torch.randint(0, 100, (32,))), 0.04, 0.08),
    "groups of joined channels": (JoinedGroups, images, 0.03, 0.06),
    "joined rectified branches": (JoinedRectified, images, 0.06, 0.08),
    "straight through": (Rounded, lambda: (torch.randn(64, 32),), 0.03, 0.06),
    "the nearest of a table": (Coded, lambda: (torch.randn(64, 32),), 0.05, 0.08),
    "attention without a softmax": (WithoutSoftmax, lambda: (torch.randn(4, 12, 64),), 0.04, 0.10),
    "an average less its middle": (LessItself, images, 0.05, 0.06),
    "attention between pixels": (Spatial, lambda: (torch.randn(8, 3, 16, 16),), 0.08, 0.20),
    "grouped experts": (Grouped, lambda: (torch.randn(48, 32),), 0.04, 0.06),
    "parts written over parts": (WrittenTwice, lambda: (torch.randn(4, 16, 64),), 0.05, 0.12),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_further_architecture_is_made_of_is_predicted(name):
    make, inputs, forward, backward = CASES[name]
    found = agreement(lambda: (make(), inputs()), draws=10)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < forward, found.worst("forward")
    assert found.worst("backward")[0] < backward, found.worst("backward")


def test_gradients_of_learned_queries_are_known():
    torch.manual_seed(0)
    calls = {call.path: call for call in predict(Case(Latents(), (torch.randn(4, 12, 64),))).calls}
    assert calls["norm"].gradient is not None
    assert calls["query"].gradient is not None


@functools.lru_cache
def _positions(length):
    return torch.arange(length).float()[:, None] / length


class Cached(nn.Module):
    """A table of positions that is kept by the function that makes it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    @functools.lru_cache  # noqa: B019 - as models have it
    def table(self, length):
        return torch.arange(length).float()[:, None] / length

    def forward(self, x):
        return self.layer(x + _positions(x.shape[1]) + self.table(x.shape[1]))


def test_tables_without_values_are_not_left_in_caches():
    model, x = Cached(), torch.randn(3, 5, 8)
    predict(Case(model, (x,)))
    assert type(model.table(5)) is torch.Tensor
    assert type(_positions(5)) is torch.Tensor
    assert torch.isfinite(model(x)).all()
