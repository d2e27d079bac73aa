"""Backward passes written by hand inside a model: what their place in it never asks of them is asked all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from oracles.wrong_structures import as_contiguous, product, sound


class Scaled(nn.Module):
    """A learned scale, multiplied by a function with a backward pass of its own."""

    def __init__(self, multiply, size=6):
        super().__init__()
        self.multiply = multiply
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x):
        return self.multiply(x, self.weight.expand_as(x).contiguous())


takes_it_for_contiguous = product(lambda _, g, x, w: (as_contiguous(g) * w, as_contiguous(g) * x))
views_it = product(lambda _, g, x, w: ((g.view(-1) * w.view(-1)).view_as(x), g * x))


def network(multiply):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6), Scaled(multiply), nn.Tanh(), nn.Linear(6, 6), Scaled(multiply), nn.Linear(6, 3)
    )
    return model.double(), torch.randn(4, 5, dtype=torch.float64)


def loss(y):
    return y.square().mean()


def test_sound_functions_inside_a_model_are_no_finding():
    model, x = network(sound)
    report = gv.check(model, x, loss=loss)
    assert report.verdict is Verdict.PASS, str(report)
    assert report.findings == ()


def test_strides_that_the_model_never_sends_are_tried_on_the_layers_with_a_function():
    model, x = network(takes_it_for_contiguous)
    report = gv.check(model, x, loss=loss)
    assert report.verdict is Verdict.FAIL
    (found,) = [finding for finding in report.findings if finding.code == "G101"]
    assert found.evidence["likely"] == "cotangent-strides"
    assert found.evidence["at_fault"] == ("1", "4")
    assert found.evidence["kind"] == "Scaled"
    assert found.evidence["functions"] == ("Product",)
    assert "contiguous" in str(report)


def test_a_layer_that_raises_on_strides_is_named():
    model, x = network(views_it)
    report = gv.check(model, x, loss=loss)
    (found,) = [finding for finding in report.findings if finding.code == "G110"]
    assert (found.evidence["likely"], found.site.path) == ("raises-on-strides", "1")
    assert "Scaled" in str(report)


def test_nothing_is_asked_inside_where_the_budget_is_spent():
    model, x = network(takes_it_for_contiguous)
    report = gv.check(model, x, loss=loss, budget=22)
    assert not [finding for finding in report.findings if finding.code == "G101"]
    assert report.cost["forwards"] <= 22


@pytest.mark.parametrize("multiply", [sound, takes_it_for_contiguous])
def test_the_model_is_as_before(multiply):
    model, x = network(multiply)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gv.check(model, x, loss=loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
