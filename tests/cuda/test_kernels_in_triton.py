"""A kernel in Triton, as its author would check it: by its slopes, and beside the plain function that it replaces."""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict

pytestmark = pytest.mark.slow

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def x(device):
    return torch.randn(6, 11, generator=torch.Generator().manual_seed(0)).to(device)


def plain(x):
    return torch.softmax(x, dim=-1)


def fits(finding, kind):
    return finding.code in {"G101", "G110"} and kind in str(finding.evidence.get("likely"))


def test_the_sound_kernel_is_the_softmax_and_its_gradient(kernels, x):
    """The slow truth of the kernel itself: in float64, by torch's own formula."""
    leaf = x.clone().requires_grad_()
    y = kernels.softmax(leaf)
    sent = torch.linspace(-1, 1, y.numel(), device=y.device).reshape(y.shape)
    (found,) = torch.autograd.grad(y, leaf, sent)
    wide = x.double().requires_grad_()
    (exact,) = torch.autograd.grad(plain(wide), wide, sent.double())
    assert torch.allclose(found.double(), exact, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_kernel_passes_by_its_slopes(kernels, x, dtype):
    report = gv.check(kernels.softmax, x.to(dtype))
    assert report.verdict is Verdict.PASS, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_kernel_is_as_exact_as_its_reference(kernels, x, dtype):
    report = gv.check(kernels.softmax, x.to(dtype), reference=plain)
    assert report.verdict is Verdict.PASS, str(report)


@pytest.mark.parametrize("mistake", ["sum missing", "two percent", "last column"])
def test_a_wrong_kernel_fails_by_its_slopes(kernels, x, mistake):
    report = gv.check(lambda x: kernels.softmax(x, mistake), x)
    assert report.verdict is Verdict.FAIL, str(report)
    assert report.findings[0].code == "G101"
    assert report.findings[0].site.path == "x"


@pytest.mark.parametrize("mistake", ["sum missing", "last column"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_kernel_fails_beside_its_reference(kernels, x, mistake, dtype):
    report = gv.check(lambda x: kernels.softmax(x, mistake), x.to(dtype), reference=plain)
    assert report.verdict is Verdict.FAIL, str(report)


def test_a_factor_in_a_kernel_is_named(kernels, x):
    report = gv.check(lambda x: kernels.softmax(x, "two percent"), x)
    assert report.findings[0].evidence["factor"].value == pytest.approx(1 / 1.02, rel=1e-3)


@pytest.mark.parametrize("reference", [None, plain])
def test_a_kernel_that_takes_the_cotangent_for_contiguous_is_found_out(kernels, x, reference):
    report = gv.check(lambda x: kernels.softmax(x, "contiguous assumed"), x, reference=reference)
    assert report.verdict is Verdict.FAIL, str(report)
    assert any(fits(finding, "strides") or fits(finding, "expanded") for finding in report.findings), str(report)


def test_a_kernel_inside_a_network_is_the_layer_at_fault(kernels, x):
    class Attend(torch.nn.Module):
        def forward(self, scores):
            return kernels.softmax(scores, "sum missing")

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(11, 8), Attend(), torch.nn.Linear(8, 3)).to(x.device)
    report = gv.check(network, x, loss=lambda y: y.square().mean())
    assert report.verdict is Verdict.FAIL
    assert {finding.evidence.get("module") or finding.site.path for finding in report.findings} == {"1"}
