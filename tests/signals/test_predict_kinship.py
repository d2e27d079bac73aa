"""Sums and products of signals that are made of the same one, against the same model drawn and measured many times."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.prediction.draws import Drawing
from gradvitals.frameworks.torch.prediction.predict import predict
from oracles.drawn_networks import agreement


class Met(nn.Module):
    """A signal meets a relative of itself between two layers; ``share`` has another value at every unit."""

    def __init__(self, join):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 128)
        self.share = nn.Parameter(torch.linspace(0, 1, 64))
        self.join = join

    def forward(self, x):
        return self.last(self.join(self, torch.tanh(self.first(x) + 0.5)))


def before(x):
    """The token before each."""
    return functional.pad(x, (0, 0, 1, -1))


JOINS = {
    "mixed with the token before": lambda m, x: x * m.share + before(x) * (1 - m.share),
    "interpolated with the token before": lambda m, x: torch.lerp(x, before(x), m.share),
    "less the token before": lambda _, x: x[:, 1:] - x[:, :-1],
    "less the average token": lambda _, x: x - x.mean(1, keepdim=True),
    "less the largest token": lambda _, x: x - x.amax(1, keepdim=True),
    "times the token before": lambda _, x: x * before(x),
    "beside what a gate leaves of it": lambda m, x: x + x * torch.sigmoid(m.gate(x)),
    "times one vector and another": lambda m, x: x * m.share + x * m.share**2,
    "a running sum without itself": lambda _, x: x.cumsum(1) - x,
}


@pytest.mark.parametrize("name", JOINS)
def test_a_signal_that_meets_itself_counts_as_what_it_is(name):
    found = agreement(
        lambda: (Met(JOINS[name]), (0.7 * torch.randn(4, 8, 64) + torch.randn(1, 1, 64),)),
        draws=12,
    )
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < 0.02, found.worst("forward")
    assert found.worst("backward")[0] < 0.05, found.worst("backward")
    assert found.inside("forward") > 0.85
    assert found.inside("backward") > 0.85


class Rotated(nn.Module):
    """Rotary positions: a unit beside another one, which is a stranger to it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 128)

    def forward(self, x):
        y = self.first(x)
        angle = torch.arange(x.shape[1])[:, None] / 10.0 ** torch.arange(32)
        half = torch.cat([-y[..., 32:], y[..., :32]], -1)
        return self.last(y * angle.cos().repeat(1, 2) + half * angle.sin().repeat(1, 2))


def test_other_units_of_a_signal_are_strangers_and_cost_no_draws(monkeypatch):
    drawn = []
    monkeypatch.setattr(Drawing, "gaussian", lambda _, field: drawn.append(field))
    found = agreement(lambda: (Rotated(), (torch.randn(4, 8, 64),)), draws=8)
    assert found.worst("forward")[0] < 0.02
    assert found.worst("backward")[0] < 0.05
    assert drawn == []


class Shifted(nn.Module):
    """Tokens that were mixed with the one before them, mixed again."""

    def __init__(self, join):
        super().__init__()
        self.layers, self.join = nn.ModuleList(nn.Linear(64, 64) for _ in range(3)), join

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(self.join(x)))
        return x


def test_a_sum_of_neighbours_that_are_too_many_to_be_told_apart_has_a_band_that_holds():
    found = agreement(lambda: (Shifted(lambda x: (x + before(x)) / 2**0.5), (torch.randn(2, 600, 64),)), draws=6)
    assert found.unmodelled == ()
    for direction in ("forward", "backward"):
        assert found.inside(direction) > 0.9
        assert found.worst(direction)[0] < 0.3


def test_a_difference_of_such_neighbours_is_named():
    said = predict(Case(Shifted(lambda x: x - before(x)), (torch.randn(2, 600, 64),)))
    assert {operation.name for operation in said.unmodelled} == {"aten::sub"}
