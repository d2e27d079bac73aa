"""Functions that are zero where they are checked: a gradient of zero is right there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_rectified_negative_number_has_slope_zero(dtype):
    for x in (torch.tensor(-2.0, dtype=dtype), -torch.rand(4, 3, dtype=dtype) - 0.1):
        assert gv.check(torch.nn.functional.relu, x).verdict is Verdict.PASS


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_numpy_layer_whose_units_are_all_off_passes(dtype):
    x = -np.abs(np.random.default_rng(0).normal(size=(3, 4))).astype(dtype) - dtype(0.1)
    report = gv.check(lambda x: np.maximum(x, 0), x, vjp=lambda dout: dout * (x > 0))
    assert report.verdict is Verdict.PASS


def test_a_slope_that_is_claimed_where_there_is_none_is_wrong():
    x = torch.full((3,), -2.0, dtype=torch.float64)

    class Leaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, dout):
            return dout

    assert gv.check(Leaky.apply, x).verdict is Verdict.FAIL
