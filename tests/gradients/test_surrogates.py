"""Declared surrogates: reported as meant, while everything around them is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv
from gradvitals import Severity, UsageError, Verdict


class RoundThrough(torch.autograd.Function):
    """Rounding with a straight-through gradient."""

    @staticmethod
    def forward(_ctx, x):
        return x.round()

    @staticmethod
    def backward(_ctx, upstream):
        return upstream


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, upstream):
        return -0.5 * upstream


class Sorted(torch.autograd.Function):
    """Sorting whose gradient isn't sorted back: not elementwise."""

    @staticmethod
    def forward(_ctx, x):
        return x.sort(dim=-1)[0]

    @staticmethod
    def backward(_ctx, upstream):
        return upstream.flip(-1) + upstream.mean()


class Scaled(torch.autograd.Function):
    """The identity with a wrong gradient."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, upstream):
        return 1.01 * upstream


class Quantised(torch.nn.Module):
    """A layer, a surrogate, a layer."""

    def __init__(self, surrogate, before=None):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)
        self.surrogate, self.before = surrogate, before or torch.nn.Identity()

    def forward(self, x):
        return self.two(self.surrogate(3 * self.before(self.one(x)).tanh()))


def batch(dtype=torch.float64):
    return torch.randn(5, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))


def codes(report):
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("function", [RoundThrough.apply, Reversal.apply])
def test_undeclared_it_is_wrong_and_declared_it_is_meant(function):
    x = 2 * batch()
    assert gv.check(function, x).verdict is Verdict.FAIL
    for report in (gv.check(gv.surrogate(function), x), gv.check(function, x, expect="surrogate")):
        assert report.verdict is Verdict.PASS
        assert codes(report) == ["G108"]
        assert report.findings[0].severity is Severity.INFO
        assert report.table("tensors").column("status") == ("surrogate",)


@pytest.mark.parametrize("function", [RoundThrough, Reversal])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inside_a_model_everything_around_it_is_checked(function, dtype):
    model = Quantised(gv.surrogate(function.apply)).to(dtype)
    report = gv.check(model, batch(dtype), loss=lambda y: y.square().mean())
    assert report.verdict is Verdict.PASS
    assert "G108" in codes(report)
    assert set(report.table("tensors").column("status")) == {"right"}


def test_a_mistake_before_or_behind_it_is_found_all_the_same():
    model = Quantised(gv.surrogate(RoundThrough.apply), before=Scaled.apply).double()
    report = gv.check(model, batch(), loss=lambda y: y.square().mean())
    assert report.verdict is Verdict.FAIL
    wrong = {row["path"] for row in report.table("tensors").records() if row["status"] == "wrong"}
    assert wrong == {"one.weight", "one.bias", "x"}


def test_what_is_not_elementwise_is_named():
    model = Quantised(gv.surrogate(Sorted.apply)).double()
    report = gv.check(model, batch(), loss=lambda y: y.square().mean(), wrt="two.*")
    assert report.verdict is Verdict.PASS
    (note,) = [finding for finding in report.findings if finding.code == "G108"]
    assert "Sorted" in note.evidence["unreplaced"][0]


def test_outside_of_a_check_nothing_changes():
    x = batch().requires_grad_()
    gv.surrogate(RoundThrough.apply)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_numpy_layers_are_declared_by_a_keyword():
    x = np.random.default_rng(0).normal(size=6) * 3
    report = gv.check(np.round, x, vjp=lambda dout: dout, expect="surrogate")
    assert report.verdict is Verdict.PASS
    assert codes(report) == ["G108"]


def test_a_right_gradient_needs_no_declaration():
    assert codes(gv.check(torch.sin, batch(), expect="surrogate")) == []


def test_what_is_expected_must_be_known():
    with pytest.raises(UsageError, match="surrogate"):
        gv.check(torch.sin, batch(), expect="wrong")


def test_only_functions_are_surrogates():
    with pytest.raises(UsageError):
        gv.surrogate(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_a_quantisers_even_steps_are_no_rounding(seed, dtype):
    x = 0.5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def quantised(x):
        return x + ((8 * x).round() / 8 - x).detach()

    assert gv.check(quantised, x).verdict is Verdict.FAIL
    assert gv.check(quantised, x, expect="surrogate").verdict is Verdict.PASS
    fake = gv.check(
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127), x.float(), expect="surrogate"
    )
    assert fake.verdict is Verdict.PASS
