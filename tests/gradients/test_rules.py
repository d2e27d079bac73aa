"""What is found when a gradient is wrong, missing, not finite or not to be resolved, and how bad it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Severity, Verdict


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def only(report, code):
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


def plain(report):
    return " ".join(str(report).split())


class Returns(torch.autograd.Function):
    """y = x · w; what comes back for w is what it is told to return."""

    @staticmethod
    def forward(ctx, x, w, spoil):
        ctx.save_for_backward(x, w)
        ctx.spoil = spoil
        return x * w

    @staticmethod
    def backward(ctx, dout):
        x, w = ctx.saved_tensors
        return dout * w, ctx.spoil((dout * x).sum(0)), None


# ---- G101: shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda g: np.concatenate([g, g]), "(6, 2)"),
        (lambda g: g.T, "(2, 3)"),
        (lambda g: g.sum(axis=0), "(2,)"),
        (lambda g: g[None], "(1, 3, 2)"),
        (lambda g: float(g.sum()), "()"),
    ],
)
def test_a_numpy_gradient_of_the_wrong_shape_is_a_finding(spoil, got):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    report = gv.check(lambda x, w: x @ w, x, w, vjp=lambda dout: (dout @ w.T, spoil(x.T @ dout)))
    assert report.verdict is Verdict.FAIL
    finding = only(report, "G101")
    assert finding.site.path == "w"
    assert (finding.evidence["likely"], finding.evidence["got"], finding.evidence["expected"]) == (
        "shape",
        got,
        "(3, 2)",
    )
    assert dict(zip("xw", report.table("tensors").column("status"), strict=True)) == {"x": "right", "w": "wrong"}
    assert f"The gradient has shape {got} where the tensor has shape (3, 2)" in plain(report)


def test_a_torch_gradient_of_the_wrong_shape_is_a_finding():
    report = gv.check(Returns.apply, wide(5, 3), wide(3), lambda g: torch.cat([g, g]))
    assert report.verdict is Verdict.FAIL
    finding = only(report, "G101")
    assert finding.site.path == "w"
    assert (finding.evidence["likely"], finding.evidence["got"], finding.evidence["expected"]) == (
        "shape",
        "(6,)",
        "(3,)",
    )


def test_a_wrong_shape_deep_inside_a_module_is_a_finding_and_no_exception():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return Returns.apply(torch.tanh(self.first(x)), self.scale, lambda g: torch.cat([g, g]))

    report = gv.check(Net().double(), wide(5, 4))
    assert report.verdict is Verdict.FAIL
    shapes = [finding for finding in report.findings if finding.code == "G101"]
    assert "scale" in {path for finding in shapes for path in finding.evidence["tensors"]}


def test_a_wrong_shape_stops_autograd_which_is_no_fault_of_the_other_tensors():
    # PyTorch raises at the first wrong shape: of the other gradients nothing is known, least of all that they are cut.
    report = gv.check(Returns.apply, wide(5, 3), wide(3), lambda g: torch.cat([g, g]))
    assert [finding.code for finding in report.findings] == ["G101"]
    status = dict(zip(report.table("tensors").column("path"), report.table("tensors").column("status"), strict=True))
    assert status["w"] == "wrong"
    assert status["x"] != "wrong"


def test_a_wrong_shape_that_no_checked_tensor_has_is_still_a_fault_of_the_model():
    report = gv.check(lambda x: Returns.apply(x, x[0] * x[1], lambda g: torch.cat([g, g])), wide(4, 7))
    assert report.verdict is Verdict.FAIL


# ---- G102: nothing came --------------------------------------------------------------------------------------------


def test_a_parameter_behind_a_detach_is_an_error_and_shows_its_slope():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)).detach())

    report = gv.check(Net().double(), wide(5, 4), loss=lambda out: out.square().mean())
    assert report.verdict is Verdict.FAIL
    found = [finding for finding in report.findings if finding.code == "G102"]
    assert {path for finding in found for path in finding.evidence["tensors"]} == {
        "first.weight",
        "first.bias",
        "x",
    }
    assert all(finding.evidence["likely"] == "detached" for finding in found)
    assert all(finding.severity is Severity.ERROR for finding in found)
    assert all(abs(finding.evidence["numeric"].value) > 0 for finding in found)
    assert "The path back is cut" in plain(report)


def test_an_unused_parameter_is_a_warning():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.forgotten = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    report = gv.check(Net().double(), wide(5, 4))
    assert report.verdict is Verdict.WARN
    finding = only(report, "G102")
    assert finding.evidence["tensors"] == ("forgotten.weight", "forgotten.bias")
    assert finding.evidence["likely"] == "unused"
    assert finding.severity is Severity.WARNING


def test_an_unused_input_is_a_remark():
    report = gv.check(lambda x, mask: x.square(), wide(4), wide(4))
    assert report.verdict is Verdict.PASS
    finding = only(report, "G102")
    assert finding.site.path == "mask"
    assert finding.severity is Severity.INFO


def test_none_from_an_autograd_function_is_a_missing_gradient():
    report = gv.check(Returns.apply, wide(5, 3), wide(3), lambda g: None)
    assert report.verdict is Verdict.FAIL
    finding = only(report, "G102")
    assert (finding.site.path, finding.evidence["likely"]) == ("w", "detached")


def test_none_from_a_numpy_backward_is_a_missing_gradient():
    x, w = np.ones((5, 3)), np.arange(6.0).reshape(3, 2)
    report = gv.check(lambda x, w: x @ w, x, w, vjp=lambda dout: (dout @ w.T, None))
    assert report.verdict is Verdict.FAIL
    assert only(report, "G102").site.path == "w"


def test_a_function_that_is_detached_altogether_is_an_error():
    report = gv.check(lambda x: x.detach().square().sum(), wide(4))
    assert report.verdict is Verdict.FAIL
    assert only(report, "G102").evidence["likely"] == "detached"


def test_a_loss_that_depends_on_nothing_is_no_exception():
    model = nn.Linear(3, 2).double()
    report = gv.check(model, wide(4, 3), loss=lambda out: torch.tensor(1.0, dtype=torch.float64))
    assert report.verdict is Verdict.WARN
    assert {finding.code for finding in report.findings} == {"G102"}


# ---- G103: not finite ----------------------------------------------------------------------------------------------


def test_a_gradient_that_is_nan_names_the_first_entry_and_the_count():
    x = wide(4).abs()
    x[2] = 0.0
    report = gv.check(lambda x: torch.where(x > 0, x.sqrt(), torch.zeros_like(x)).sum(), x)
    assert report.verdict is Verdict.FAIL
    finding = only(report, "G103")
    assert finding.site.path == "x"
    assert finding.site.index == (2,)
    assert (finding.evidence["count"], finding.evidence["total"]) == (1, 4)
    assert "1 of the 4 entries" in plain(report)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_numpy_gradient_that_is_not_finite_is_named(bad):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))

    def backward(dout):
        dw = x.T @ dout
        dw[1, 0] = bad
        return dout @ w.T, dw

    report = gv.check(lambda x, w: x @ w, x, w, vjp=backward)
    finding = only(report, "G103")
    assert (str(finding.site), finding.evidence["count"]) == ("w[1, 0]", 1)
    assert report.table("tensors").column("status") == ("right", "wrong")


# ---- G104: cannot tell ---------------------------------------------------------------------------------------------


def test_a_function_buried_in_a_huge_offset_is_unresolved_and_never_a_pass():
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: 1e14 + (x**2).sum(), x, grad=lambda x: 2 * x)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert not report.ok
    finding = only(report, "G104")
    assert finding.evidence["tensors"] == ("x",)
    assert finding.evidence["resolution"] > finding.evidence["sensitivity"] == 1e-4
    assert report.table("tensors").column("status") == ("unresolved",)


@pytest.mark.parametrize(
    ("sensitivity", "verdict"), [(0.5, Verdict.PASS), (1e-3, Verdict.PASS), (1e-8, Verdict.INCONCLUSIVE)]
)
def test_a_sensitivity_that_was_asked_for_decides_what_is_resolved(sensitivity, verdict):
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: 1e9 + (x**2).sum(), x, grad=lambda x: 2 * x, sensitivity=sensitivity)
    assert report.verdict is verdict
    assert report.settings["sensitivity"] == sensitivity
    (resolution,) = report.table("tensors").column("resolution")
    assert (resolution <= sensitivity) == (verdict is Verdict.PASS)


def test_a_value_that_is_nan_is_inconclusive():
    report = gv.check(lambda x: (x - 5).sqrt().sum(), wide(4))
    assert report.verdict in {Verdict.INCONCLUSIVE, Verdict.FAIL}
    finding = only(report, "G104")
    assert finding.evidence["likely"] == "value-not-finite"
    assert "own value is NaN or infinite" in plain(report)


def test_weak_tensors_are_resolved_beside_strong_ones():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=4), rng.normal(size=4)
    layer = lambda x, y: np.concatenate([1e6 * np.sin(x), np.sin(y)])  # noqa: E731 - a formula
    backward = lambda d: (1e6 * d[:4] * np.cos(x), d[4:] * np.cos(y))  # noqa: E731
    report = gv.check(layer, x, y, vjp=backward)
    assert report.verdict is Verdict.PASS
    wrong = gv.check(layer, x, y, vjp=lambda d: (backward(d)[0], 1.001 * backward(d)[1]))
    assert only(wrong, "G101").site.path == "y"


# ---- G105: not deterministic ---------------------------------------------------------------------------------------


def test_a_function_with_its_own_random_numbers_is_named_and_not_passed():
    own = np.random.default_rng(0)
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: (x**2).sum() * (1 + 0.1 * own.normal()), x, grad=lambda x: 2 * x)
    finding = only(report, "G105")
    assert finding.severity is Severity.UNRESOLVED
    assert finding.evidence["spread"] > 0.001
    assert report.verdict is not Verdict.PASS


def test_a_counter_inside_is_noticed():
    count = itertools.count()
    report = gv.check(lambda x: (x**2).sum() + next(count), np.array([1.0, 2.0]), grad=lambda x: 2 * x)
    assert only(report, "G105").severity is Severity.UNRESOLVED
    assert report.verdict is not Verdict.PASS


def test_a_little_trembling_is_a_remark_and_no_reason_to_fail():
    own = np.random.default_rng(0)
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: (x**2).sum() * (1 + 1e-13 * own.normal()), x, grad=lambda x: 2 * x)
    assert only(report, "G105").severity is Severity.INFO
    assert report.verdict is Verdict.PASS


def test_a_trembling_function_with_a_wrong_factor_is_still_wrong():
    own = np.random.default_rng(0)
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: (x**2).sum() * (1 + 1e-10 * own.normal()), x, grad=lambda x: x)
    assert report.verdict is Verdict.FAIL
    assert only(report, "G101").evidence["likely"] == "factor-missing"


# ---- several at once -----------------------------------------------------------------------------------------------


def test_each_tensor_gets_its_own_finding_and_the_worst_comes_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.ones(2))
            self.bad = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return Returns.apply(x, self.bad, lambda g: -g)

    report = gv.check(Net().double(), wide(5, 3))
    assert [finding.code for finding in report.findings] == ["G101", "G102"]
    assert report.verdict is Verdict.FAIL


def test_a_right_gradient_has_no_finding():
    report = gv.check(nn.Linear(3, 2).double(), wide(4, 3))
    assert report.findings == ()
    assert report.verdict is Verdict.PASS
    assert set(report.table("tensors").column("likely")) == {None}


# ---- grades beside the status --------------------------------------------------------------------------------------


def graded(off, dtype=np.float64):
    x = np.random.default_rng(0).normal(size=6).astype(dtype)
    report = gv.check(np.sin, x, vjp=lambda dout: dtype(1 + off) * dout * np.cos(x))
    return next(report.table("tensors").records()), report


@pytest.mark.parametrize(("off", "grade"), [(0, "exact"), (1e-5, "acceptable"), (1e-3, "suspicious"), (0.5, "large")])
def test_the_grade_is_the_notes_whatever_the_status(off, grade):
    row, _ = graded(off)
    assert row["grade"] == grade
    assert row["status"] == ("wrong" if off else "right")
    assert row["relative_error"] == pytest.approx(off / (2 + off), rel=1e-3, abs=1e-9)


def test_a_wrong_gradient_with_a_generous_grade_is_explained_in_a_sentence():
    _, report = graded(1e-5)
    assert only(report, "G101").evidence["harmless_grade"] == "acceptable"
    assert "is a generous one" in plain(report)
    assert "harmless_grade" not in only(graded(0.5)[1], "G101").evidence


def test_float32_is_graded_honestly():
    row, report = graded(0, np.float32)
    assert report.verdict is Verdict.PASS
    assert row["grade"] in {None, "exact", "acceptable"}
    assert row["relative_error"] < 1e-5  # slopes measured in float32 have errors of that size themselves


def test_no_grade_is_shown_where_the_slope_itself_is_coarser():
    x = np.array([1.0, 2.0])
    report = gv.check(lambda x: 1e10 + (x**2).sum(), x, grad=lambda x: 2 * x)
    row = next(report.table("tensors").records())
    # At 1e10 a value is rounded to 1e-6: the slope can't be known to 1e-7.
    assert row["grade"] != "exact"
