"""Kinks and jumps: left out where they are, judged by the slopes on both sides, checked a step beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv
from gradvitals import Severity, Verdict


class Relu(torch.autograd.Function):
    """ReLU with a slope at zero that its user chooses, and a factor on all slopes."""

    @staticmethod
    def forward(ctx, x, at_zero, factor):
        ctx.save_for_backward(x)
        ctx.at_zero, ctx.factor = at_zero, factor
        return x.relu()

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return ctx.factor * upstream * ((x > 0).to(x) + ctx.at_zero * (x == 0).to(x)), None, None


def points(seed=0, zeros=2, size=20, dtype=torch.float64):
    x = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    x[:zeros] = 0
    return x


def kink_note(report):
    return next(finding for finding in report.findings if finding.code == "G106")


@pytest.mark.parametrize("at_zero", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_subgradient_passes_and_the_share_left_out_is_noted(at_zero, dtype):
    report = gv.check(lambda x: Relu.apply(x, at_zero, 1.0), points(dtype=dtype))
    assert report.verdict is Verdict.PASS
    note = kink_note(report)
    assert note.severity is Severity.INFO
    assert note.evidence["masked"] >= 2
    assert note.evidence["total"] == 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at_zero", [-0.5, 1.5, 2.0])
def test_what_is_no_subgradient_fails_by_name(at_zero, seed):
    report = gv.check(lambda x: Relu.apply(x, at_zero, 1.0), points(seed))
    assert report.verdict is Verdict.FAIL
    wrong = next(finding for finding in report.findings if finding.code == "G101")
    assert wrong.evidence["likely"] == "not-a-subgradient"
    assert report.table("tensors").column("status") == ("wrong",)


def test_kinks_hide_no_mistake_elsewhere():
    report = gv.check(lambda x: Relu.apply(x, 0.0, 1.001), points())
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].evidence["likely"] == "factor-extra"


@pytest.mark.parametrize("zeros", [1, 20])
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_scalar_at_a_kink_is_checked_a_step_beside_it(zeros, factor):
    report = gv.check(lambda x: (Relu.apply(x, 0.0, factor) ** 2 + Relu.apply(x, 0.0, factor)).sum(), points(0, zeros))
    assert report.verdict is (Verdict.PASS if factor == 1.0 else Verdict.FAIL)
    assert kink_note(report).evidence["beside"] == ("x",)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.abs(), id="abs"),
        pytest.param(lambda x: x.clamp(-1, 1), id="clamp"),
        pytest.param(lambda x: x.sort()[0], id="sort"),
        pytest.param(lambda x: x.reshape(4, 5).amax(dim=1), id="max"),
        pytest.param(lambda x: x.floor() + x, id="floor"),
        pytest.param(lambda x: torch.nn.functional.max_pool1d(x[None], 2), id="max-pool"),
    ],
)
def test_ties_zeros_and_whole_numbers_refuse_nothing_that_is_right(function):
    x = points(3)
    x[4:8] = torch.tensor([1.0, 1.0, -1.0, 2.0])
    assert gv.check(function, x).verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}
    assert gv.check(function, points(4, zeros=0)).verdict is Verdict.PASS


def test_computed_values_cannot_follow_a_step_beside_the_kink():
    x = np.zeros(4)
    report = gv.check(lambda x: np.maximum(x, 0).sum(), x, grad=np.zeros(4))
    assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}


def test_the_budget_caps_evaluations_and_leaves_the_rest_unresolved():
    calls = []

    def function(x):
        calls.append(None)
        return x.sin()

    report = gv.check(function, points(zeros=0), budget=8)
    assert report.cost["forwards"] <= 12
    assert report.verdict is Verdict.INCONCLUSIVE


def test_a_wrong_gradient_within_a_small_budget_is_never_passed():
    report = gv.check(lambda x: Relu.apply(x, 0.0, 1.5) ** 2, points(zeros=0), budget=24)
    assert report.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}


class Imprecise(torch.autograd.Function):
    """x², whose gradient suffers from cancellation in float32."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * ((x + 2e4) - 2e4) * 2


def test_a_right_formula_that_is_imprecise_is_told_from_a_wrong_one():
    x = points(zeros=0, dtype=torch.float32)
    report = gv.check(Imprecise.apply, x)
    assert report.verdict is Verdict.WARN
    told = next(finding for finding in report.findings if finding.code == "G107")
    exact = (2 * x.double()).numpy()
    computed = (((x + 2e4) - 2e4) * 2).double().numpy()
    assert told.evidence["imprecision"] == pytest.approx(
        np.linalg.norm(computed - exact) / np.linalg.norm(exact), rel=0.5
    )
    assert gv.check(Imprecise.apply, x.double()).verdict is Verdict.PASS
