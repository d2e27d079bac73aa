"""Starts of networks that no activation from a table explains: values, gates, recurrence, branches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradvitals import init_, plan_init
from gradvitals.frameworks import as_case
from gradvitals.frameworks.torch.capture import capture
from gradvitals.weights.learning_rate import advised
from gradvitals.weights.measure import survey


def outputs(model, x):
    return model(x).detach()


def hidden():
    return nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()


def codes(report):
    return {finding.code for finding in report.findings}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(*hidden(), nn.Linear(32, 1)),
        nn.Sequential(*hidden(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 16)),
    ],
    ids=["one number", "the inputs again"],
)
def test_values_start_near_zero(model):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    report = init_(model, x)
    assert float(outputs(model, x).std()) == pytest.approx(0.1, rel=0.1)
    assert list(report.table("plan").records())[-1]["reason"] == "value-head"


def test_what_may_be_classes_starts_at_one():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(*hidden(), nn.Linear(32, 16))
    init_(model, x)
    assert float(outputs(model, x).std()) == pytest.approx(1.0, rel=0.1)


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def test_what_reads_a_recurrent_layer_is_fitted_to_its_small_outputs():
    x = torch.randn(64, 12, 8, generator=torch.Generator().manual_seed(0))
    model = Last()
    report = init_(model, x)
    assert report.settings["method"] == "calibrated"
    assert float(outputs(model, x).square().mean().sqrt()) == pytest.approx(1.0, rel=0.05)


def test_without_a_batch_a_shallow_network_starts_by_theory():
    fitted, analytic = Last(), Last()
    init_(fitted)
    init_(analytic, method="analytic")
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), analytic.parameters(), strict=True))


def test_a_chain_of_gated_linear_units_keeps_its_signal():
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(32, 64), nn.GLU())], nn.Linear(32, 10))
    report = init_(model, x)
    sizes = [row["forward_rms"] for row in report.table("after").records() if row["kind"] == "Linear"]
    assert max(sizes) / min(sizes) < 1.05
    assert not codes(report) & {"W301", "W303"}
    assert "W301" not in codes(plan_init(model, x))


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def test_a_tailored_sine_is_sound():
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(32, 32), Sine())], nn.Linear(32, 10))
    assert "W301" not in codes(init_(model, x))
    assert "W301" not in codes(plan_init(model, x))


def test_gradients_pass_leaky_convolutions_of_one_dimension():
    layers = [nn.Conv1d(1, 16, 5, padding=2), nn.LeakyReLU(0.1)]
    for _ in range(11):
        layers += [nn.Conv1d(16, 16, 5, padding=2), nn.LeakyReLU(0.1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4))
    at = torch.arange(64) / (8 + 16 * torch.rand(256, 1, generator=torch.Generator().manual_seed(0)))
    report = init_(model, torch.sin(2 * math.pi * at)[:, None])
    sizes = [row["gradient_rms"] for row in report.table("after").records() if row["kind"] == "Conv1d"]
    assert max(sizes) / min(sizes) < 2.5


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(64, 64), nn.Linear(64, 64), nn.ReLU()

    def forward(self, x):
        return x + self.second(self.act(self.first(self.act(x))))


def test_what_branches_change_adds_up_by_their_share():
    """Of R branches of 1/R of the variance each the inner layers add up as √R, and the last ones, whose weights are as
    much smaller but not their steps, as R."""
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    rates = []
    for blocks in (12, 48):
        model = nn.Sequential(nn.Linear(64, 64), *[Residual() for _ in range(blocks)], nn.ReLU(), nn.Linear(64, 10))
        assert "W306" not in codes(init_(model, x))
        case = as_case("init_", model, (x,))
        rates.append(advised(capture(case), {weight.path: weight for weight in survey(case).weights}))
    assert 2.0 < rates[0] / rates[1] < 4.0
