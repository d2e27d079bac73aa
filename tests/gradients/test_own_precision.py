"""A mistake that a backward pass makes in the model's own precision only: float64's formula doesn't show it."""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict


def own_mistake(share):
    """The identity, whose gradient is off by a share of itself, but in float64."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            del ctx
            return x.clone()

        @staticmethod
        def backward(ctx, upstream):
            del ctx
            if upstream.dtype == torch.float64:
                return upstream
            exact = upstream.float()
            return (exact + share * exact.reshape(-1).roll(3).reshape(exact.shape)).to(upstream.dtype)

    return Identity.apply


def check(share, dtype, seed):
    identity = own_mistake(share)
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((6, 8), (8, 5)))
    return gv.check(lambda x, w: torch.tanh(identity(x) @ w), x, w, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(4))
def test_a_pass_states_no_finer_resolution_than_what_its_own_precision_would_have_shown(dtype, seed):
    report = check(0.0, dtype, seed)
    assert report.verdict is Verdict.PASS
    table = report.table("tensors")
    resolution = dict(zip(table.column("path"), table.column("resolution"), strict=True))["x"]
    assert check(3.3 * resolution, dtype, seed).verdict is not Verdict.PASS


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 5e-3), (torch.bfloat16, 0.2), (torch.float16, 0.2)])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_coarser_than_the_sensitivity_is_wrong_though_the_formula_is_right(dtype, share, seed):
    assert check(share, dtype, seed).verdict is Verdict.FAIL
