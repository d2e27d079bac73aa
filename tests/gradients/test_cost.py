"""What a check says that it took is what it took."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals.frameworks import Case, opened


def linear():
    return [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)]


def normalised():
    return [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)]


@pytest.mark.parametrize("layers", [linear, normalised])
@pytest.mark.parametrize("wrt", ["*weight", None])
@pytest.mark.parametrize("loss", [None, lambda y: y.square().sum()])
def test_every_call_of_the_model_is_counted_and_no_other(layers, wrt, loss):
    torch.manual_seed(0)
    calls = []

    class Model(nn.Sequential):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    model = Model(*layers()).double()
    report = gv.check(model, torch.randn(6, 5, dtype=torch.float64), wrt=wrt, loss=loss)
    assert report.verdict.value == "pass"
    assert report.cost["forwards"] + report.cost["backwards"] == len(calls)


def test_a_sound_loss_of_parameters_takes_ten_points():
    torch.manual_seed(0)
    model = nn.Sequential(*linear(), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    report = gv.check(model, x, wrt="*", loss=lambda y: y.square().sum())
    alone = gv.check(model, x, wrt=[name for name, _ in model.named_parameters()], loss=lambda y: y.square().sum())
    # The value, the gradient's own pass, and four points along each of two directions.
    assert alone.cost["forwards"] + alone.cost["backwards"] == 10
    # Inputs are laid out in strides as well.
    assert report.cost["forwards"] + report.cost["backwards"] == 11


def test_the_pass_of_a_gradient_is_handed_out_once():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    with opened(Case(model, (x,)), ["weight", "bias"]) as problem:
        cotangent = torch.randn(8, dtype=torch.float64).numpy()
        claimed = problem.gradient(cotangent)
        first, second = (problem.pullback(layout="strided") for _ in range(2))
        assert (first.is_known, second.is_known) == (True, False)
        for pullback in (first, second):
            sent = pullback.send(cotangent).gradients
            assert all((a.value == b.value).all() for a, b in zip(sent, claimed, strict=True))
        problem.gradient(cotangent)
        assert not problem.pullback().is_known  # asked for as it is, it is a pass of its own


@pytest.mark.parametrize("wrt", [None, ["weight", "input"]])
def test_inputs_get_a_pass_of_their_own(wrt):
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    with opened(Case(model, (x,)), wrt) as problem:
        problem.gradient(torch.ones(8, dtype=torch.float64).numpy())
        assert not problem.pullback(layout="strided").is_known
