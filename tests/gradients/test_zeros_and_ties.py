"""Points where a check is hard, and right code must not be refused: all zeros, ties, jumps, narrow passages."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv
from gradvitals import Severity, Verdict

FORMATS = [torch.float64, torch.float32, torch.bfloat16]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_right(report):
    assert report.verdict is Verdict.PASS, str(report)
    assert all(finding.severity is Severity.INFO for finding in report.findings)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: (x**2).sum(), id="square"),
        pytest.param(lambda x: x**2, id="squares"),
        pytest.param(lambda x: (x**3).mean(), id="cube"),
        pytest.param(lambda x: (1 - x.cos()).mean(), id="cosine"),
        pytest.param(lambda x: functional.mse_loss(x, torch.zeros_like(x)), id="loss"),
        pytest.param(lambda x: functional.l1_loss(x, torch.zeros_like(x)), id="distance"),
        pytest.param(lambda x: functional.relu(x - 100), id="dead"),
        pytest.param(lambda x: x.norm(dim=-1), id="norm"),
        pytest.param(lambda x: functional.normalize(x, dim=-1), id="narrow-passage"),
        pytest.param(lambda x: x.sign() + x, id="jump"),
        pytest.param(lambda x: x.amax(dim=-1), id="ties"),
        pytest.param(lambda x: functional.max_pool2d(functional.relu(x)[None, None], 2), id="pool"),
    ],
)
def test_a_sound_function_of_zeros_passes(function, dtype):
    assert_right(gv.check(function, torch.zeros(4, 6, dtype=dtype)))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_a_net_of_rectifiers_whose_biases_and_inputs_are_zero_passes(dtype, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    x, target = torch.zeros(4, 6, dtype=dtype), torch.arange(4) % 3
    assert_right(gv.check(model, x, loss=lambda y: functional.cross_entropy(y, target), seed=seed))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_values_that_tie_in_threes_pass(dtype, seed):
    x = drawn(4, 6, seed=seed, dtype=dtype).round()
    assert_right(gv.check(lambda x: x.sort(dim=-1).values, x, seed=seed))


@pytest.mark.parametrize("seed", range(4))
def test_two_equal_tensors_of_a_coarse_format_tie_everywhere_and_pass(seed):
    x = drawn(8, 8, seed=seed, dtype=torch.bfloat16)
    assert_right(gv.check(torch.maximum, x, x.clone(), seed=seed))
    assert_right(gv.check(lambda x: x.clamp(-1, 1), x, seed=seed))


class Spoilt(torch.autograd.Function):
    """3x, or 3·relu(x) with slope 0 below zero; its gradient may have a factor too many, or none where x is 0."""

    @staticmethod
    def forward(ctx, x, below, factor, at_zero):
        ctx.save_for_backward(x)
        ctx.below, ctx.factor, ctx.at_zero = below, factor, at_zero
        return 3 * torch.where(x > 0, x, below * x)

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        slope = torch.where(x > 0, 1.0, ctx.below).to(x)
        slope = torch.where(x == 0, ctx.at_zero, slope)
        return 3 * ctx.factor * upstream * slope, None, None, None


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("zeros", [6, 24])
def test_a_mistake_at_zeros_only_is_found_where_the_function_is_smooth(dtype, zeros):
    x = drawn(24, dtype=dtype)
    x[:zeros] = 0
    assert gv.check(lambda x: Spoilt.apply(x, 1.0, 1.0, 0.0), x).verdict is Verdict.FAIL
    assert_right(gv.check(lambda x: Spoilt.apply(x, 1.0, 1.0, 1.0), x))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("loss", [None, torch.sum])
def test_zeros_hide_no_mistake_elsewhere(dtype, loss):
    x = torch.zeros(24, dtype=dtype)
    for factor in (1.0, 1.5):
        report = gv.check(lambda x, f=factor: Spoilt.apply(x, 0.0, f, 0.0), x, loss=loss)
        assert report.verdict is (Verdict.PASS if factor == 1.0 else Verdict.FAIL), str(report)


def test_what_slopes_contradict_is_told_once_not_again_as_no_subgradient():
    class Unsummed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            mean = x.mean(dim=-1, keepdim=True)
            scale = (x.var(dim=-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
            ctx.save_for_backward((x - mean) * scale, scale)
            return (x - mean) * scale

        @staticmethod
        def backward(ctx, upstream):
            normal, scale = ctx.saved_tensors
            return scale * (upstream - normal * (upstream * normal).mean(dim=-1, keepdim=True))

    for seed in range(4):
        report = gv.check(Unsummed.apply, drawn(4, 3, 8, seed=seed, dtype=torch.float32), seed=seed)
        assert [finding.code for finding in report.findings if finding.severity is Severity.ERROR] == ["G101"]
        assert report.findings[0].evidence["likely"] != "not-a-subgradient"


def test_a_zero_gradient_where_the_function_is_zero_but_not_flat_is_wrong():
    report = gv.check(lambda x: (x.detach() * x.detach().new_tensor(2.0) + 0 * x).sum(), torch.zeros(6))
    assert report.verdict is Verdict.FAIL
