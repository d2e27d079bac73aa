"""Regularisation as a term of its own, and checks after some training."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def net():
    """A network with its inputs and labels."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    return model, torch.randn(6, 4), lambda out: nn.functional.cross_entropy(out, labels)


class Scaled(torch.autograd.Function):
    """Its backward pass is wrong by a tenth."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dout):
        return 1.1 * dout


def squares(model, factor=1e3):
    return factor * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)


def by_term(report):
    columns = report.table("tensors").columns
    return {(row[columns.index("term")], row[0]): row[columns.index("status")] for row in report.table("tensors").rows}


def test_both_terms_are_checked_each_with_its_rows(net):
    model, x, loss = net
    report = gv.check(model, x, loss=loss, regularisation=squares)
    assert report.verdict is Verdict.PASS, str(report)
    status = by_term(report)
    assert {key for key in status if key[0] == "data"} == {
        ("data", name) for name in ("0.weight", "0.bias", "2.weight", "2.bias", "input")
    }
    assert ("regularisation", "0.weight") in status
    assert ("regularisation", "input") not in status


def test_a_large_regularisation_does_not_drown_a_wrong_gradient_of_the_data(net):
    model, x, loss = net
    large = functools.partial(squares, factor=1e9)
    together = gv.check(model, x, loss=lambda out: loss(Scaled.apply(out)) + large(model), wrt="0.weight")
    apart = gv.check(model, x, loss=lambda out: loss(Scaled.apply(out)), regularisation=large, wrt="0.weight")
    assert together.verdict is not Verdict.FAIL
    assert apart.verdict is Verdict.FAIL
    assert apart.findings[0].evidence["term"] == "data"
    assert "0.weight" in apart.findings[0].evidence["tensors"]
    assert "the loss on the data" in str(apart)


def test_a_wrong_gradient_of_the_regularisation_is_found_there(net):
    model, x, loss = net
    report = gv.check(
        model, x, loss=loss, regularisation=lambda model: Scaled.apply(model[0].weight).square().sum() * 1e-6
    )
    assert report.verdict is Verdict.FAIL
    (finding,) = [finding for finding in report.findings if finding.code == "G101"]
    assert (finding.site.path, finding.evidence["term"]) == ("0.weight", "regularisation")
    assert by_term(report)["data", "0.weight"] == "right"


def test_a_regularisation_without_an_argument_closes_over_the_model(net):
    model, x, loss = net
    report = gv.check(model, x, loss=loss, regularisation=lambda: squares(model))
    assert report.verdict is Verdict.PASS
    assert ("regularisation", "2.weight") in by_term(report)


def test_chosen_parameters_are_chosen_in_both_terms(net):
    model, x, loss = net
    report = gv.check(model, x, loss=loss, regularisation=squares, wrt=["0.weight", "input"])
    assert list(by_term(report)) == [("data", "0.weight"), ("data", "input"), ("regularisation", "0.weight")]


def test_a_function_of_several_modules_may_be_regularised(net):
    model, x, loss = net
    report = gv.check(lambda x: loss(model(x)), x, wrt={"net": model}, regularisation=lambda: squares(model, 1.0))
    assert report.verdict is Verdict.PASS, str(report)
    assert ("regularisation", "net.0.weight") in by_term(report)


def test_costs_of_both_terms_are_added_up(net):
    model, x, loss = net
    alone = gv.check(model, x, loss=loss)
    assert gv.check(model, x, loss=loss, regularisation=squares).cost["forwards"] > alone.cost["forwards"]


@pytest.mark.parametrize(("regularisation", "error"), [(1e-4, UsageError), (lambda model: model[0].weight, InputError)])
def test_what_is_no_scalar_function_is_no_regularisation(net, regularisation, error):
    model, x, loss = net
    with pytest.raises(error, match=r"regularisation|scalar"):
        gv.check(model, x, loss=loss, regularisation=regularisation)


# Burn-in


def test_a_copy_is_trained_and_the_model_stays_as_it_is(net):
    model, x, loss = net
    model.append(nn.BatchNorm1d(3))
    model.append(nn.Dropout(0.2))
    model[0].weight.grad = torch.ones(5, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state, grad = torch.get_rng_state(), model[0].weight.grad
    report = gv.check(model, x, loss=loss, burn_in=5)
    assert report.verdict is Verdict.PASS, str(report)
    assert report.settings["burn_in"] == 5
    assert report.subject == "Sequential"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.grad is grad
    assert torch.equal(grad, torch.ones(5, 4))
    assert torch.equal(random_state, torch.get_rng_state())


def test_a_mistake_that_shows_after_training_only_is_found(net):
    _, x, loss = net

    class Late(nn.Module):
        """Scales by a parameter that starts at zero; the gradient of what it scales is wrong."""

        def __init__(self):
            super().__init__()
            self.first, self.scale, self.head = nn.Linear(4, 3), nn.Parameter(torch.zeros(3)), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x) + self.scale * Scaled.apply(self.first(x))

    model = Late()
    assert gv.check(model, x, loss=loss, wrt="first.weight").verdict is not Verdict.FAIL
    report = gv.check(model, x, loss=loss, burn_in=20, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].evidence["tensors"][0].startswith("first")
    assert torch.equal(model.scale, torch.zeros(3))


def test_modules_named_in_wrt_are_those_of_the_copy(net):
    model, x, loss = net
    report = gv.check(model, x, loss=loss, burn_in=2, wrt=model[2])
    assert [row[0] for row in report.table("tensors").rows] == ["2.weight", "2.bias"]


def test_an_interrupt_in_training_leaves_the_model_as_it_was(net):
    model, x, _ = net
    before, random_state = model[0].weight.clone(), torch.get_rng_state()

    def loss(out):
        torch.rand(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gv.check(model, x, loss=loss, burn_in=3)
    assert torch.equal(before, model[0].weight)
    assert torch.equal(random_state, torch.get_rng_state())


def test_training_needs_a_loss(net):
    model, x, _ = net
    with pytest.raises(InputError, match="training needs a loss"):
        gv.check(model, x, burn_in=3)


def test_training_that_diverges_is_said(net):
    model, x, _ = net
    with pytest.raises(ModelError, match="left the finite numbers"):
        gv.check(
            model, x, loss=lambda out: out.square().sum(), burn_in=200, optimizer=lambda p: torch.optim.SGD(p, lr=1e3)
        )


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"burn_in": -1}, InputError, "not a number of steps"),
        ({"optimizer": torch.optim.SGD}, UsageError, "without steps"),
    ],
)
def test_steps_that_make_no_sense_are_refused(net, keywords, error, message):
    model, x, loss = net
    with pytest.raises(error, match=message):
        gv.check(model, x, loss=loss, **keywords)


def test_an_optimizer_of_the_model_itself_is_refused(net):
    model, x, loss = net
    with pytest.raises(UsageError, match="holds parameters already"):
        gv.check(model, x, loss=loss, burn_in=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_only_modules_can_be_trained(net):
    _, x, _ = net
    with pytest.raises(InputError, match="only a module"):
        gv.check(torch.sin, x, burn_in=1)


@pytest.mark.parametrize("keyword", [{"burn_in": 2}, {"regularisation": lambda: 0.0}, {"outputs": 0}])
def test_numpy_functions_have_none_of_these(keyword):
    with pytest.raises(UsageError, match="is for PyTorch"):
        gv.check(lambda x: float((x**2).sum()), np.arange(3.0), grad=lambda x: 2 * x, **keyword)
