"""Functions that are rounded inside to far less than their own size: right where float64 can be asked, never wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict
from oracles.scaled import Scaled


def cancelling(x):
    return (torch.sin(x) + 1e4) - 1e4


def cast(x):
    return (torch.sin(x) + 3).bfloat16().to(x.dtype) - 3


def in_part(x):
    return torch.cat([torch.sin(x[:2]), cancelling(x[2:])])


FUNCTIONS = {
    "cancelling": cancelling,
    "cast": cast,
    "sum": lambda x: cancelling(x).sum(),
    "square": lambda x: cancelling(x) ** 2,
    "in-part": in_part,
}


def points(seed, size=1e-3, dtype=torch.float32):
    return size * torch.randn(5, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_stairs_as_wide_as_the_ladder_are_no_reason_to_call_a_gradient_wrong(name, size, seed):
    report = gv.check(FUNCTIONS[name], points(seed, size), precision="native", seed=seed)
    assert report.verdict is not Verdict.FAIL
    resolved = report.table("tensors").column("resolution")[0]
    assert resolved > 1e-3 or report.verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1e-3, 1e-1])
@pytest.mark.parametrize("name", ["cancelling", "cast", "sum"])
def test_float64_tells_that_it_is_right(name, size, seed):
    assert gv.check(FUNCTIONS[name], points(seed, size), seed=seed).verdict in {Verdict.PASS, Verdict.WARN}


@pytest.mark.parametrize("seed", range(3))
def test_numpy_is_asked_in_float64_as_well(seed):
    def function(x):
        return (np.sin(x) + x.dtype.type(1e4)) - x.dtype.type(1e4)

    x = points(seed).numpy()
    assert gv.check(function, x, vjp=lambda w, cache=None: w * np.cos(x)).verdict is Verdict.PASS
    assert gv.check(function, x, vjp=lambda w, cache=None: w * np.float32(1.01) * np.cos(x)).verdict is Verdict.FAIL


@pytest.mark.parametrize("factor", [-1.0, 1.01, 2.0])
@pytest.mark.parametrize("name", ["cancelling", "sum"])
def test_stairs_hide_no_mistake_from_float64(name, factor):
    report = gv.check(lambda x: FUNCTIONS[name](Scaled.apply(x, factor)), points(0))
    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize("size", [1e-3, 1e-1])
def test_where_nothing_is_finer_what_is_cast_inside_is_unresolved(size):
    report = gv.check(cast, points(0, size, torch.float64))
    assert report.verdict is Verdict.INCONCLUSIVE


class Claims(torch.autograd.Function):
    """A function with a gradient of one."""

    @staticmethod
    def forward(_ctx, x, function):
        return function(x)

    @staticmethod
    def backward(_ctx, upstream):
        return upstream, None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(torch.zeros_like, id="constant"),
        pytest.param(lambda x: (x - 9).relu(), id="dead"),
        pytest.param(lambda x: (x - 9).clamp(0, 1), id="clamped"),
        pytest.param(torch.sign, id="sign"),
        pytest.param(torch.round, id="straight-through"),
    ],
)
def test_what_is_flat_by_itself_has_no_gradient_of_one(function, dtype):
    x = 0.2 + points(0, 0.1, dtype).abs()
    assert gv.check(lambda x: Claims.apply(x, function), x).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(torch.round, id="round"),
        pytest.param(lambda x: torch.round(10 * x) / 10, id="tenths"),
        pytest.param(lambda x: torch.frexp(x)[0], id="frexp"),
        pytest.param(lambda x: x.round().sum(), id="sum"),
        pytest.param(lambda x: torch.remainder(x, 1.5), id="remainder"),
    ],
)
def test_jumps_closer_than_the_steps_of_a_16_bit_format_are_no_mistake(function):
    for seed in range(6):
        x = points(seed, 5.0).bfloat16()
        assert gv.check(function, x, precision="native", seed=seed).verdict is not Verdict.FAIL


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [-8.0, -12.5, -20.0])
def test_a_value_that_underflows_is_no_mistake(place, dtype):
    x = torch.tensor(place, dtype=dtype)
    for function in (torch.special.ndtr, torch.special.erfc, torch.exp, lambda x: torch.exp(-(x**2))):
        assert gv.check(function, x, precision="native").verdict is not Verdict.FAIL
