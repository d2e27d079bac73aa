"""Operations without a formula, run on draws of their signals, against the same model drawn and measured many times."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.prediction.predict import predict
from oracles.drawn_networks import agreement


class Largest(nn.Module):
    """The larger of two signals, entry by entry (maxout)."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 8)

    def forward(self, x):
        return self.head(torch.maximum(self.one(x), self.two(x)))


class StableAverage(nn.Module):
    """A running average with exponential weights, kept in range by their maximum, as RWKV has it."""

    def __init__(self):
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(64, 64) for _ in range(3))
        self.decay = nn.Parameter(torch.linspace(-2, 0.5, 64))
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        keys, values = self.key(x), self.value(x)
        made = torch.zeros_like(values)
        top = torch.full_like(keys[:, 0], -1e38)
        total, count = torch.zeros_like(top), torch.zeros_like(top)
        for t in range(x.shape[1]):
            k, v = keys[:, t], values[:, t]
            new = torch.maximum(top - self.decay.exp(), k)
            old, now = torch.exp(top - self.decay.exp() - new), torch.exp(k - new)
            total, count, top = old * total + now * v, old * count + now, new
            made[:, t] = total / count
        return self.head(torch.tanh(self.out(made)))


class Kept(nn.Module):
    """A loop over time that writes what it makes into a tensor."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x):
        made = torch.zeros(x.shape[0], x.shape[1], 64)
        for t in range(x.shape[1]):
            made[:, t] = torch.relu(self.cell(x[:, t]))
        return self.head(made)


class Routed(nn.Module):
    """Each token to two of four experts, all of which are run, by weights that are zero for the others."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        shares = (2 * self.router(x)).softmax(-1)
        best, which = shares.topk(2, -1)
        weights = torch.zeros_like(shares).scatter(-1, which, best / best.sum(-1, keepdim=True))
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head((made * weights[..., None, :]).sum(-1))


class Spectral(nn.Module):
    """Tokens mixed by a Fourier transform over positions and units, of which the real part is kept (FNet)."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        return self.head(self.norm(y + torch.fft.fft2(y, norm="ortho").real))


CASES = {
    "the larger of two": (Largest, (32, 64), 0.03, 0.06),
    "a stable average": (StableAverage, (4, 10, 64), 0.04, 0.08),
    "written step by step": (Kept, (4, 8, 64), 0.03, 0.06),
    "routed to two of four": (Routed, (4, 8, 64), 0.05, 0.10),
    "a Fourier transform": (Spectral, (4, 8, 64), 0.04, 0.08),
}


@pytest.mark.parametrize("name", CASES)
def test_what_has_no_formula_is_followed_on_draws(name):
    make, shape, forward, backward = CASES[name]
    found = agreement(lambda: (make(), (torch.randn(*shape),)), draws=10)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < forward, found.worst("forward")
    assert found.worst("backward")[0] < backward, found.worst("backward")


class Unknown(nn.Module):
    """Something that can't be followed, written into a part of a tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        y = self.first(x)
        made = torch.zeros(2, *y.shape)
        made[0] = torch.linalg.svdvals(y)
        return self.last(made)


def test_what_an_unknown_signal_was_written_into_counts_as_unknown():
    said = predict(Case(Unknown(), (torch.randn(16, 16),)))
    assert said.unmodelled
    last = next(call for call in said.calls if call.path == "last")
    assert last.forward is None
