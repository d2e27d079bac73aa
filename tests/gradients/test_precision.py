"""A function that computes with fewer digits than its dtype has is told, with the format and the settings in force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Severity, Verdict
from gradvitals.frameworks import as_case, opened
from gradvitals.frameworks.torch.settings import lowered_precision
from gradvitals.gradients.measure import measure
from gradvitals.gradients.measure_precision import measure_precision
from gradvitals.vocabulary.words import LANGUAGES, describe

#: Unit roundoffs, and what the finding calls the format.
FORMATS = {
    torch.bfloat16: (2.0**-8, "bfloat16"),
    torch.float16: (2.0**-11, "float16 / TF32"),
    torch.float32: (2.0**-24, "float32"),
}
#: How far the roundoff that is seen may be from the format's: it is averaged over a few rounded numbers.
WITHIN = 6.0


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(6, 8), torch.randn(8, 5)


def of(report):
    return [f for f in report.findings if f.code == "G107" and "ratio" in f.evidence]


def the(report):
    (found,) = of(report)
    return found


def product_in(dtype):
    def product(x, w):
        return (x.to(dtype) @ w.to(dtype)).to(x.dtype)

    return product


def tf32(x):
    """Rounded to the ten fraction bits that tensor cores read."""
    with torch.no_grad():
        bits = x.detach().view(torch.int32)
        rounded = ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    return x + (rounded - x.detach())


@pytest.mark.parametrize(
    ("native", "inside"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float64, torch.float32),
        (torch.float64, torch.bfloat16),
    ],
)
def test_a_cast_inside_is_seen_with_the_roundoff_of_its_format(pair, native, inside):
    report = gv.check(product_in(inside), *(x.to(native) for x in pair), precision="native")
    finding = the(report)
    roundoff, name = FORMATS[inside]
    resolved = set(report.table("tensors").column("status")) == {"right"}
    assert finding.severity is (Severity.INFO if resolved else Severity.WARNING)
    assert finding.evidence["format"] == name
    assert finding.evidence["dtype"] == str(native).removeprefix("torch.")
    assert roundoff / WITHIN < finding.evidence["roundoff"] < roundoff * WITHIN
    for lang in LANGUAGES:
        assert "–" not in describe(finding, lang).text


def test_inputs_rounded_as_tensor_cores_round_them_are_seen(pair):
    finding = the(gv.check(lambda x, w: tf32(x) @ tf32(w), *pair, precision="native"))
    assert finding.evidence["format"] == "float16 / TF32"


def test_the_roundoff_that_is_seen_is_that_of_the_errors_against_float64(pair):
    """The slow way to the same number: the outputs' errors, over what rounding the inputs once by a unit makes."""
    x, w = pair
    exact = x.double() @ w.double()
    error = (product_in(torch.float16)(x, w).double() - exact).norm()
    carried = torch.sqrt((x.double() ** 2) @ (w.double() ** 2) * 2 + exact**2).norm()
    case = as_case("check", product_in(torch.float16), (x, w))
    with opened(case) as problem:
        base = measure(problem, sensitivity=1e-3, seed=0, precision="native").base
    seen = measure_precision(base, 2.0**-24).seen
    assert seen == pytest.approx(float(error / carried) * np.sqrt(3), rel=0.7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.softmax(x @ w, -1).log(),
        lambda x, w: (x @ w).cumsum(0).var(0),
        lambda x, w: torch.linalg.svdvals(x @ w),
        lambda x, w: torch.relu(x @ w).sum(),
    ],
)
def test_sound_functions_are_as_precise_as_their_dtype(pair, function, dtype):
    assert of(gv.check(function, *(x.to(dtype) for x in pair))) == []


def test_sixteen_bit_formats_are_not_looked_at(pair):
    assert of(gv.check(torch.matmul, *(x.bfloat16() for x in pair))) == []


def test_autocast_is_a_note_that_names_itself(pair):
    with torch.autocast("cpu", torch.bfloat16):
        report = gv.check(lambda x, w: (x @ w).float(), *pair)
    finding = the(report)
    assert finding.severity is Severity.INFO
    assert finding.evidence["settings"] == ("torch.autocast('cpu', torch.bfloat16)",)
    assert "torch.autocast('cpu', torch.bfloat16)" in describe(finding).text
    assert lowered_precision(["cpu"]) == ()


def test_the_precision_of_matrix_products_is_named():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert lowered_precision(["cpu"]) == ("torch.set_float32_matmul_precision('medium')",)
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_of_a_gpu_are_named_for_tensors_on_one():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert "torch.backends.cuda.matmul.allow_tf32" in lowered_precision(["cuda"])
        assert lowered_precision(["cpu"]) == ()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class AsTensorCores(torch.autograd.Function):
    """A product of numbers rounded as tensor cores round them, and back so too; exact in float64."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w if x.dtype == torch.float64 else tf32(x) @ tf32(w)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        if grad.dtype == torch.float64:
            return grad @ w.T, x.T @ grad
        return tf32(grad.contiguous()) @ tf32(w).T, tf32(x).T @ tf32(grad.contiguous())


def test_an_imprecise_gradient_names_the_settings_that_may_be_why(monkeypatch):
    name = "torch.backends.cuda.matmul.allow_tf32"
    monkeypatch.setattr("gradvitals.frameworks.torch.problem.lowered_precision", lambda *_: (name,))
    torch.manual_seed(0)
    report = gv.check(AsTensorCores.apply, torch.randn(32, 32), torch.randn(32, 32), loss=lambda y: y.tanh().mean())
    (finding,) = (f for f in report.findings if f.evidence.get("likely") == "gradient")
    assert report.verdict is Verdict.WARN
    assert finding.code == "G107"
    assert finding.evidence["settings"] == (name,)
    for lang in LANGUAGES:
        assert name in describe(finding, lang).text


def test_noise_that_differs_when_asked_again_is_no_rounding(pair):
    state = []

    def trembling(x):
        state.append(1)
        return x * (1 + 1e-3 * np.cos(len(state)))

    assert of(gv.check(trembling, pair[0])) == []


def test_a_model_with_a_coarse_layer_inside_says_so():
    class Coarse(nn.Module):
        def forward(self, x):
            return x.half().float()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Coarse(), nn.Tanh(), nn.Linear(8, 3))
    report = gv.check(model, torch.randn(4, 6), loss=lambda y: y.square().mean(), precision="native")
    assert the(report).evidence["format"] == "float16 / TF32"


def test_gradients_that_are_resolved_all_the_same_make_it_a_note(pair):
    report = gv.check(product_in(torch.float32), *(x.double() for x in pair), sensitivity=1e-2, precision="native")
    assert report.verdict is Verdict.PASS
    assert the(report).severity is Severity.INFO
