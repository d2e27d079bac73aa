"""Models whose forward pass, or loss, takes gradients itself: forces, penalties, inner loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.vocabulary.errors import ModelError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


class Residual(nn.Module):
    """u² + (du/dx₀)², a differential equation's residual."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.inner, self.wrong = network(), wrong

    def forward(self, x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        u = self.inner(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (slope.detach() if self.wrong else slope)[:, 0] ** 2 + u[:, 0] ** 2


def squares(y):
    return y.square().mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("wrt", [None, "inner.*"])
def test_a_model_that_differentiates_inside_is_checked(dtype, wrt):
    model, x = Residual().to(dtype), torch.rand(6, 2, dtype=dtype)
    report = gv.check(model, x, loss=squares, wrt=wrt)
    assert report.verdict is Verdict.PASS, str(report)
    assert report.cost["evaluation"] == "sequential: takes-gradients"


def test_an_inner_gradient_that_is_detached_is_reported():
    model, x = Residual(wrong=True).double(), torch.rand(6, 2, dtype=torch.float64)
    report = gv.check(model, x, loss=squares)
    assert report.verdict is Verdict.FAIL


def test_a_gradient_penalty_in_the_loss_is_checked():
    critic, x = network().double(), torch.rand(6, 2, dtype=torch.float64)
    between = torch.rand(6, 2, dtype=torch.float64)

    def loss(y):
        here = between.clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(here).sum(), here, create_graph=True)
        return y.mean() + ((slope.norm(dim=1) - 1) ** 2).mean()

    report = gv.check(critic, x, loss=loss)
    assert report.verdict is Verdict.PASS, str(report)


def test_an_inner_loop_is_checked():
    model, x = network().double(), torch.rand(6, 2, dtype=torch.float64)

    def adapted(x):
        parameters = dict(model.named_parameters())
        steps = torch.autograd.grad(squares(model(x)), list(parameters.values()), create_graph=True)
        moved = {name: p - 0.1 * s for (name, p), s in zip(parameters.items(), steps, strict=True)}
        return torch.func.functional_call(model, moved, (x,))

    report = gv.check(adapted, x, loss=squares, wrt=model)
    assert report.verdict is Verdict.PASS, str(report)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_raises_with_gradients_as_well_is_the_users_error():
    def broken(x):
        return torch.autograd.grad(torch.ones(()), x)[0]

    with pytest.raises(ModelError, match="does not require grad"):
        gv.check(broken, torch.rand(3))
