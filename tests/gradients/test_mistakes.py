"""Mistakes are called by their name: the finding says what kind, which tensor, and how to put it right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv
from gradvitals import Severity, Verdict

DTYPES = [np.float64, np.float32]


def drawn(*sizes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).astype(dtype) for size in sizes]


def sole(report):
    assert report.verdict is Verdict.FAIL, str(report)
    (finding,) = [finding for finding in report.findings if finding.severity > Severity.INFO]
    assert finding.code == "G101"
    return finding


def square_layer(spoil, dtype=np.float64, width=3):
    """tanh(x w) for square w, with ``spoil`` applied to the gradient of w."""
    x, w = drawn((5, width), (width, width), dtype=dtype)

    def backward(dout):
        dz = dout * (1 - np.tanh(x @ w) ** 2)
        return dz @ w.T, spoil(x.T @ dz)

    return gv.check(lambda x, w: np.tanh(x @ w), x, w, vjp=backward)


def plain(report):
    return " ".join(str(report).split())


# ---- constant factors ----------------------------------------------------------------------------------------------


def test_the_plain_example_says_what_is_missing_in_so_many_words():
    report = gv.check(lambda x: (x**2).sum(), np.array([1.0, 2.0, 3.0]), grad=lambda x: x)
    assert "numeric is 2.000 × analytic: a factor 2 is missing" in plain(report)
    assert "x" in sole(report).evidence["tensors"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("factor", "likely", "name"),
    [
        (0.5, "factor-missing", "2"),
        (1 / 4, "factor-missing", "4"),
        (2.0, "factor-extra", "2"),
        (7.0, "factor-extra", "7"),
        (-0.5, "factor-missing", "−2"),
        (-2.0, "factor-extra", "−2"),
    ],
)
def test_whole_factors_are_named(factor, likely, name, dtype):
    finding = sole(square_layer(lambda g: dtype(factor) * g, dtype))
    assert finding.site.path == "w"
    assert (finding.evidence["likely"], finding.evidence["name"]) == (likely, name)
    estimate = finding.evidence["factor"]
    assert estimate.value == pytest.approx(1 / factor, rel=1e-3)
    assert abs(estimate.value - 1 / factor) <= 6 * estimate.error + 2e-4 * abs(estimate.value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("factor", "likely"), [(1.01, "factor-extra"), (0.99, "factor-missing"), (1.5, "factor-extra")]
)
def test_odd_factors_are_given_as_numbers(factor, likely, dtype):
    finding = sole(square_layer(lambda g: dtype(factor) * g, dtype))
    assert finding.evidence["likely"] == likely
    assert float(finding.evidence["name"]) == pytest.approx(max(factor, 1 / factor), rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_flipped_sign_is_a_sign(dtype):
    finding = sole(square_layer(np.negative, dtype))
    assert finding.evidence["likely"] == "sign"
    assert finding.evidence["relative_error"] == pytest.approx(1, rel=1e-3)


def mean_cost(x, w):
    return float(np.mean((x @ w) ** 2))


@pytest.mark.parametrize(
    ("times", "likely"), [(7.0, "factor-missing"), (1 / 7.0, "factor-extra")], ids=["missing 1/N", "1/N twice"]
)
def test_the_batchs_size_is_recognised_in_a_factor(times, likely):
    x, w = drawn((7, 3), (3,))
    gradient = 2 * x.T @ (x @ w) / 7
    report = gv.check(lambda w, x: mean_cost(x, w), w, x, grad={"dw": times * gradient})
    finding = sole(report)
    assert finding.evidence["likely"] == likely
    assert finding.evidence["name"] == "1/N (N = 7)"


def test_the_batchs_size_is_recognised_in_columns_as_courses_write_it():
    X, Y, W = drawn((3, 6), (1, 6), (1, 3))

    def cost(p):
        return float(((p["W"] @ X - Y) ** 2).sum() / (2 * X.shape[1]))

    wrong = (W @ X - Y) @ X.T  # 1/m is missing
    finding = sole(gv.check(lambda X, Y, p: cost(p), X, Y, {"W": W}, grad={"dW": wrong}))
    assert finding.evidence["name"] == "1/N (N = 6)"


def test_the_batchs_size_is_recognised_in_torch():
    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x @ w).square().mean()

        @staticmethod
        def backward(ctx, dout):
            x, w = ctx.saved_tensors
            y = x @ w
            return 2 * dout * y[:, None] * w / len(x), 2 * dout * x.T @ y

    x, w = (torch.from_numpy(a) for a in drawn((7, 3), (3,)))
    finding = sole(gv.check(Mean.apply, x, w))
    assert (finding.site.path, finding.evidence["likely"]) == ("w", "factor-missing")
    assert finding.evidence["name"] == "1/N (N = 7)"


# ---- patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_everywhere_is_said(dtype):
    finding = sole(square_layer(np.zeros_like, dtype))
    assert finding.evidence["likely"] == "zero"
    assert finding.evidence["analytic"] == 0
    assert "returns zero everywhere" in plain(square_layer(np.zeros_like))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 3, 12, 24])
def test_a_transposed_square_matrix_is_transposed(dtype, width):
    finding = sole(square_layer(np.transpose, dtype, width))
    assert finding.site.path == "w"
    assert finding.evidence["likely"] == "transposed"


def single_wrong(shape, index, change, dtype=np.float64):
    """Elementwise x² · w, with one entry of w's gradient changed."""
    x, w = drawn((4, *shape), shape, dtype=dtype)

    def backward(dout):
        dw = (dout * x**2).sum(axis=0)
        dw[index] = change(dw[index])
        return dout * 2 * x * w, dw

    return gv.check(lambda x, w: x**2 * w, x, w, vjp=backward)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "index"), [((3,), (2,)), ((8, 8), (5, 1)), ((40, 25), (31, 7)), ((100, 50), (0, 0))])
def test_a_single_wrong_entry_is_found_among_many(shape, index, dtype):
    finding = sole(single_wrong(shape, index, lambda g: -2 * g, dtype))
    assert finding.site.path == "w"
    assert finding.site.index == index
    assert finding.evidence["likely"] == "entries"
    assert finding.evidence["wrong_count"] == 1


def test_a_single_missing_entry_among_thousands_is_found():
    finding = sole(single_wrong((60, 50), (41, 13), lambda _: 0.0))
    assert finding.site.index == (41, 13)
    assert finding.evidence["analytic"] == 0


def test_the_entry_that_is_shown_tells_the_mistake():
    finding = sole(single_wrong((8, 8), (5, 1), lambda g: g + 1))
    numeric = finding.evidence["numeric"]
    assert finding.evidence["analytic"] - numeric.value == pytest.approx(1, abs=1e-6)
    assert numeric.error < 1e-6


def test_a_wrong_row_is_named():
    def spoil(g):
        g = g.copy()
        g[0] *= 3
        return g

    finding = sole(square_layer(spoil))
    assert (finding.evidence["likely"], finding.evidence["region"], finding.evidence["axis"]) == ("slice", "[0, :]", 0)
    assert finding.evidence["factor"].value == pytest.approx(1 / 3, rel=1e-6)
    assert finding.site.index[0] == 0
    assert (finding.evidence["wrong_count"], finding.evidence["checked_count"]) == (3, 9)


def test_what_no_simple_mistake_explains_is_a_wrong_formula():
    report = square_layer(lambda g: g * (1 + np.random.default_rng(3).uniform(size=g.shape)))
    assert sole(report).evidence["likely"] == "formula"
    assert "no simple factor explains it" in plain(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_where_there_is_no_slope_is_no_matter_of_sign(dtype):
    report = gv.check(lambda x, y: (x**2).sum(), *drawn(3, 3, dtype=dtype), grad=lambda x, y: (2 * x, np.ones_like(y)))
    finding = sole(report)
    assert finding.site.path == "y"
    assert finding.evidence["likely"] not in {"sign", "factor-missing"}
    assert finding.evidence["numeric"].value == pytest.approx(0, abs=1e-6)


# ---- shared causes -------------------------------------------------------------------------------------------------


def two_layers(times):
    """A two-layer cost in the courses' notation whose first layer's gradients all carry a factor."""
    X, Y, W1, b1, W2, b2 = drawn((3, 6), (2, 6), (4, 3), (4, 1), (2, 4), (2, 1))
    parameters = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}

    def cost(p):
        A1 = np.tanh(p["W1"] @ X + p["b1"])
        return float(((p["W2"] @ A1 + p["b2"] - Y) ** 2).sum() / 2)

    A1 = np.tanh(W1 @ X + b1)
    dZ2 = W2 @ A1 + b2 - Y
    dZ1 = times * (W2.T @ dZ2) * (1 - A1**2)
    gradients = {
        "dW1": dZ1 @ X.T,
        "db1": dZ1.sum(axis=1, keepdims=True),
        "dW2": dZ2 @ A1.T,
        "db2": dZ2.sum(axis=1, keepdims=True),
    }
    return gv.check(cost, parameters, grad=gradients)


@pytest.mark.parametrize("times", [0.5, 3.0, -1.0, 1.2])
def test_tensors_with_one_wrong_factor_are_one_finding_that_points_at_the_cause(times):
    report = two_layers(times)
    finding = sole(report)
    assert finding.evidence["tensors"] == ("W1", "b1")
    assert finding.evidence["shared"] == "dZ1"
    assert finding.evidence["factor"].value == pytest.approx(1 / times, rel=1e-3)
    assert "look at dZ1 first" in plain(report)


def test_tensors_with_different_factors_are_different_findings():
    x, w, b = drawn((5, 3), (3, 2), (2,))
    report = gv.check(lambda x, w, b: x @ w + b, x, w, b, vjp=lambda d: (d @ w.T, 2 * x.T @ d, 3 * d.sum(axis=0)))
    found = {finding.site.path: finding.evidence["name"] for finding in report.findings}
    assert found == {"w": "2", "b": "3"}
    assert not any("shared" in finding.evidence for finding in report.findings)


def test_parameters_of_one_torch_layer_share_the_layer():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dout):
            return 2 * dout

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.second = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.second(torch.tanh(Doubled.apply(self.first(x.detach()))))

    torch.manual_seed(0)
    report = gv.check(Net().double(), torch.randn(5, 3, dtype=torch.float64), wrt=["first.*", "second.*"])
    finding = sole(report)
    assert set(finding.evidence["tensors"]) == {"first.weight", "first.bias"}
    assert finding.evidence["functions"] == ("Doubled",)


def test_the_table_names_the_likely_mistake_as_well():
    report = square_layer(np.negative)
    likely = dict(zip(report.table("tensors").column("path"), report.table("tensors").column("likely"), strict=True))
    assert likely == {"x": None, "w": "sign"}


def test_an_output_that_is_ignored_is_wrong_in_coarse_formats_too_and_no_other_is_named():
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin(), x**2

        @staticmethod
        def backward(ctx, first, second):
            (x,) = ctx.saved_tensors
            del second
            return first * x.cos()

    for seed in range(4):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
        finding = sole(gv.check(Both.apply, x, seed=seed))
        assert finding.site.path == "x"
        if finding.evidence["likely"] == "output-ignored":
            assert finding.evidence["part"] == "output1"
