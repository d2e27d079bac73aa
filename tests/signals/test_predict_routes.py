"""Entries taken by what a signal's values are in a batch (routes to experts), against models drawn many times."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.prediction.predict import predict
from oracles.drawn_networks import agreement


class Experts(nn.Module):
    """Four experts and a router; a subclass says which tokens each of them sees."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(4))
        self.head = nn.Linear(64, 128)

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        return self.head(self.routed(tokens, self.router(tokens).softmax(-1)).reshape(x.shape))


class ToTwo(Experts):
    """Each token to two experts, by positions that depend on values (Mixtral)."""

    def routed(self, x, shares):
        weights, which = shares.topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        mask = functional.one_hot(which, 4).permute(2, 1, 0)
        made = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            rank, token = torch.where(mask[at])
            made.index_add_(0, token, expert(x[token]) * weights[token, rank, None])
        return made


class ToOne(Experts):
    """Each token to one expert, by ``nonzero`` (Switch)."""

    def routed(self, x, shares):
        weights, which = shares.max(-1)
        made = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            token = (which == at).nonzero().squeeze(-1)
            made = made.index_add(0, token, expert(x[token]) * weights[token, None])
        return made


class AllBehindMasks(Experts):
    """All experts see all tokens; what isn't theirs is multiplied by zero."""

    def routed(self, x, shares):
        best = shares.argmax(-1)
        return sum(expert(x) * (shares[:, at] * (best == at))[:, None] for at, expert in enumerate(self.experts))


@pytest.mark.parametrize("model", [ToTwo, ToOne, AllBehindMasks])
def test_routes_to_experts_are_followed(model):
    found = agreement(lambda: (model(), (torch.randn(8, 16, 64),)), draws=16)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < 0.05, found.worst("forward")
    assert found.worst("backward")[0] < 0.10, found.worst("backward")
    assert found.inside("forward") > 0.85
    assert found.inside("backward") > 0.85


class BySize(Experts):
    """Shares taken where they are the largest: they aren't like the others."""

    def routed(self, x, shares):
        best = shares.argmax(-1)
        made = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            mine = best == at
            made[mine] = expert(x[mine]) * shares[mine][:, at : at + 1]
        return made


def test_what_was_taken_by_its_own_size_is_named():
    said = predict(Case(BySize(), (torch.randn(8, 16, 64),)))
    assert [operation.name for operation in said.unmodelled] == ["aten::index"]
    assert "own size" in said.unmodelled[0].reason
    head = next(call for call in said.calls if call.path == "head")
    assert head.forward is None


class Twice(nn.Module):
    """The real part of a Fourier transform over units, twice: the second time half of the units are the others."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(64, 64), nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, x):
        x = self.first(x)
        for _ in range(2):
            x = self.norm(x + torch.fft.fft2(x, norm="ortho").real)
        return self.last(x)


def test_units_of_which_some_are_the_same_are_followed_on_draws():
    found = agreement(lambda: (Twice(), (torch.randn(4, 8, 64),)), draws=10)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < 0.04, found.worst("forward")
    assert found.worst("backward")[0] < 0.08, found.worst("backward")
