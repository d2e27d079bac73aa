"""Recurrent nets as a whole, over samples and steps: against draws, and against their steps one by one."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals.frameworks.torch.prediction import recurrent
from oracles.drawn_networks import agreement

INPUT = (8, 6, 24)


class Net(nn.Module):
    """A layer with a bias, so that steps are alike; a recurrent net; a head on its last step, or on all."""

    def __init__(self, kind, *, everywhere=False, gain=1.0, forget=None, **options):
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.net = getattr(nn, kind)(24, 96, **{"batch_first": True, **options})
        self.head = nn.Linear(96 * (2 if self.net.bidirectional else 1), 8)
        self.everywhere = everywhere
        for name, parameter in self.net.named_parameters():
            if name.startswith("weight"):
                parameter.data *= gain
            elif forget is not None and name.startswith("bias_ih"):
                parameter.data[96:192] = forget

    def forward(self, x):
        outputs, _ = self.net(self.first(x))
        last = outputs[:, -1] if self.net.batch_first else outputs[-1]
        return self.head(outputs if self.everywhere else last)


class Translator(nn.Module):
    """One net begins where another ended."""

    def __init__(self, kind):
        super().__init__()
        self.read, self.write = (getattr(nn, kind)(24, 64, batch_first=True) for _ in range(2))
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        _, states = self.read(x)
        return self.head(self.write(x, states)[0])


NETS = {
    "LSTM": lambda: Net("LSTM"),
    "LSTM, two layers both ways": lambda: Net("LSTM", num_layers=2, bidirectional=True),
    "LSTM that keeps": lambda: Net("LSTM", forget=1.0),
    "LSTM, time first": lambda: Net("LSTM", batch_first=False),
    "LSTM of large weights": lambda: Net("LSTM", gain=3.0),
    "GRU, two layers": lambda: Net("GRU", num_layers=2),
    "GRU without biases": lambda: Net("GRU", bias=False, everywhere=True),
    "Elman": lambda: Net("RNN"),
    "two LSTMs": lambda: Translator("LSTM"),
    "two GRUs": lambda: Translator("GRU"),
}


@pytest.mark.parametrize("name", NETS)
def test_a_recurrent_net_is_predicted_over_all_its_steps(name):
    found = agreement(lambda: (NETS[name](), (torch.randn(INPUT),)), draws=16)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < 0.02
    assert found.worst("backward")[0] < 0.03
    assert found.inside("forward") > 0.9
    assert found.inside("backward") > 0.85


@pytest.mark.parametrize("name", ["LSTM", "GRU, two layers", "Elman"])
def test_gradients_of_its_weights_and_biases_add_up_over_steps(name):
    departures, ratios = {}, {}
    for seed in range(10):
        torch.manual_seed(seed)
        model, x = NETS[name](), torch.randn(INPUT)
        weights = torch.linspace(-1, 1, 64).reshape(8, 8)
        report = gv.predict(model, x, loss=lambda y, w=weights: (y * w).sum(), against="probe", seed=seed)
        table = report.table("parameter_agreement")
        for row in table.rows:
            values = dict(zip(table.columns, row, strict=True))
            departures.setdefault(row[0], []).append(values["gradient_deviations"])
            ratios.setdefault(row[0], []).append(math.log(values["gradient_ratio"]))
    for parameter, logs in ratios.items():
        if parameter.startswith("net."):
            assert abs(statistics.fmean(logs)) < 0.12
            assert math.sqrt(statistics.fmean(d * d for d in departures[parameter])) < 1.6


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_states_that_share_nothing_are_as_their_steps_one_by_one(kind, monkeypatch):
    """Without a memory of several steps, and inputs that aren't alike, both theories are one."""
    torch.manual_seed(0)
    model, x = nn.Sequential(getattr(nn, kind)(24, 64, batch_first=True, bias=False)), torch.randn(8, 2, 24)
    whole = gv.predict(model, x).table("layers")
    monkeypatch.setattr(recurrent, "followed", lambda *_: None)
    steps = gv.predict(model, x).table("layers")
    for column in ("forward_rms", "gradient_rms"):
        assert whole.column(column) == pytest.approx(steps.column(column), rel=0.02)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.LSTM(24, 32, batch_first=True), nn.Linear(32, 8)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 6, 5, 3]), batch_first=True)
        return self.head(self.net(packed)[1][0][-1])


def test_what_is_unusual_is_followed_step_by_step():
    projected = Net("LSTM", proj_size=48)
    projected.head = nn.Linear(48, 8)
    with_mean = Net("GRU")
    with torch.no_grad():
        with_mean.net.weight_hh_l0 += 0.05
    for model in (projected, with_mean, Net("RNN", nonlinearity="relu")):
        assert [
            finding.code for finding in gv.predict(model, torch.randn(INPUT)).findings if finding.code == "S209"
        ] == []
    gv.predict(Packed(), torch.randn(4, 6, 24))  # which may be named, but doesn't fail


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_sequence_of_one_step_or_of_one_sample_is_followed(kind):
    for shape in ((1, 6, 24), (8, 1, 24), (1, 1, 24)):
        table = gv.predict(Net(kind), torch.randn(shape)).table("layers")
        assert all(value > 0 for value in table.column("forward_rms"))


def test_the_models_weights_are_where_they_were():
    model = Net("LSTM")
    before = dict(model.named_parameters())
    flat = list(model.net._flat_weights)
    gv.predict(model, torch.randn(INPUT), loss=lambda y: y.square().mean())
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert all(one is other for one, other in zip(flat, model.net._flat_weights, strict=True))
