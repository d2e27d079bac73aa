"""The double backward against slopes of the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def rows(report):
    return {row[0]: row for row in report.table("tensors").rows}


class Cube(torch.autograd.Function):
    """y = x³ with a backward pass of differentiable operations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dout


class HalfDetachedCube(Cube):
    """Its first gradient is right; the dependence on x is cut, the one on the cotangent isn't."""

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * dout


class NumpyCube(Cube):
    """Its backward pass is computed outside of torch."""

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * dout.detach().numpy())


class OnceCube(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dout


class WrongTwice(Cube):
    """Its backward is a Function of its own, whose backward is half of what it should be."""

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return Slope.apply(x) * dout


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x**2

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return 3 * x * dout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_a_right_double_backward_passes(dtype):
    report = gv.check(Cube.apply, torch.randn(5, dtype=dtype), order=2)
    assert report.verdict is Verdict.PASS, str(report)
    assert list(rows(report)) == ["x", "cotangent"]
    assert report.settings["derivative"] == 2


@pytest.mark.parametrize("function", [HalfDetachedCube, WrongTwice, NumpyCube])
def test_a_wrong_double_backward_fails_although_the_first_order_is_right(function):
    x = torch.randn(5, dtype=torch.float64)
    assert gv.check(function.apply, x).verdict is Verdict.PASS
    report = gv.check(function.apply, x, order=2)
    assert report.verdict is Verdict.FAIL
    assert rows(report)["x"][4] == "wrong"


def test_a_wrong_double_backward_is_explained_by_its_factor():
    report = gv.check(WrongTwice.apply, torch.randn(5, dtype=torch.float64), order=2)
    assert report.findings[0].site.path == "x"
    assert rows(report)["cotangent"][4] == "right"


def test_a_wrong_first_order_is_not_this_checks_business():
    class Doubled(Cube):
        @staticmethod
        def backward(ctx, dout):
            (x,) = ctx.saved_tensors
            return 6 * x**2 * dout

    x = torch.randn(5, dtype=torch.float64)
    assert gv.check(Doubled.apply, x).verdict is Verdict.FAIL
    assert gv.check(Doubled.apply, x, order=2).verdict is Verdict.PASS


def test_a_backward_that_is_differentiable_once_only_is_named():
    with pytest.raises(ModelError, match="can't be differentiated a second time") as caught:
        gv.check(OnceCube.apply, torch.randn(5), order=2)
    assert "once_differentiable" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_modules_pass_with_their_parameters(dtype):
    model = nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 2)).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = gv.check(model, torch.randn(3, 4, dtype=dtype), loss=lambda out: out.pow(2).sum(), order=2)
    assert report.verdict is Verdict.PASS, str(report)
    assert list(rows(report)) == ["0.weight", "0.bias", "2.weight", "2.bias", "input"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_linear_function_has_a_second_derivative_in_the_cotangent_only():
    report = gv.check(lambda x: 2 * x, torch.randn(4, dtype=torch.float64), order=2)
    assert report.verdict is not Verdict.FAIL
    assert rows(report)["cotangent"][4] == "right"


def test_a_gradient_penalty_is_differentiated_once_more():
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def penalty(x):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def evaluated(x):
        with torch.enable_grad():
            return penalty(x)

    report = gv.check(evaluated, torch.randn(4, 3, dtype=torch.float64), wrt=critic)
    assert report.verdict is not Verdict.FAIL, str(report)
    assert rows(report)["critic.0.weight"][4] == "right"


def test_nothing_to_differentiate_is_said():
    with pytest.raises(InputError, match="no first gradient"):
        gv.check(lambda x: x.detach() * 2, torch.randn(4), order=2)


@pytest.mark.parametrize("order", [0, 3])
def test_other_orders_are_refused(order):
    with pytest.raises(UsageError, match="first and second"):
        gv.check(torch.sin, torch.randn(4), order=order)


def test_numpy_has_no_second_order():
    with pytest.raises(UsageError, match="order=2 is for PyTorch"):
        gv.check(lambda x: float((x**2).sum()), [1.0, 2.0], grad=lambda x: 2 * x, order=2)
