"""A suspicion is held against the claimed gradients within the step that decided: kinks there aren't mistakes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.frameworks import Case, opened
from gradvitals.gradients.measure_base import measure_base, surroundings
from gradvitals.gradients.measure_within import measure_within
from oracles.scaled import Scaled

STEP = 0.25
#: Distances of kinks from the point, along the line: all on one side, where no central difference sees through them.
KINKS = (0.03, 0.11, 0.17)
#: What they add to a central difference of STEP.
BENT = sum(0.5 * (1 - kink / STEP) for kink in KINKS)


class SpoiltAtZero(torch.autograd.Function):
    """The same, with a backward pass that is wrong where an entry is exactly zero."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return torch.where(x == 0, upstream + 2, upstream)


def bent(x):
    return x.sum() + sum((x - kink).relu().sum() for kink in KINKS)


def within(function, missing, at=0.0, dtype=torch.float64):
    rng = np.random.default_rng(0)
    with opened(Case(function, (torch.full((1,), at, dtype=dtype),)), None) as problem:
        value = problem.value({})
        cotangent = np.ones(1)
        around = surroundings(problem, value, rng)
        base = measure_base(problem, value, around, cotangent, problem.gradient(cotangent), rng)
        return measure_within(problem, base, {0: np.ones(1)}, STEP, missing)


def test_kinks_within_a_step_account_for_what_seems_missing():
    found = within(bent, BENT)
    assert abs(found.missing) <= 4 * found.error
    assert found.error < 0.1 * BENT


def test_they_do_not_account_for_a_mistake():
    found = within(lambda x: bent(Scaled.apply(x, 3.0)), BENT - 2)
    # Claimed is 3 at the point and three times the truth within: of three times the bend, one is the function's own.
    assert found.missing == pytest.approx(-2 - 2 * BENT, abs=4 * found.error)


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: (x + 2).relu().sum()])
def test_a_steady_claim_leaves_the_point_to_the_slopes(function):
    assert within(function, 0.1) is None


def test_a_claim_that_is_wrong_at_the_point_alone_is_no_bend():
    assert within(lambda x: SpoiltAtZero.apply(x).sum(), -2.0) is None


def deep(seed, depth=22, width=16):
    torch.manual_seed(seed)
    layers = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@functools.cache
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    x = torch.tensor(found.data, dtype=torch.float32) / 16
    return ((x - x.mean(0)) / (x.std(0) + 1e-3))[:64], torch.tensor(found.target)[:64]


def checked(model):
    x, y = digits()
    return gv.check(model, x, loss=lambda output: nn.functional.cross_entropy(output, y), seed=0, wrt="0.*")


@pytest.mark.parametrize("seed", [2, 8, 14, 15])
def test_a_vanishing_gradient_behind_many_kinks_is_not_called_wrong(seed):
    """Its loss changes so little that only steps across many kinks show a slope: that decides nothing."""
    report = checked(deep(seed))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "wrong" not in report.table("tensors").column("status")


@pytest.mark.parametrize("factor", [-1.0, 1.5])
def test_a_mistake_in_it_is_still_found(factor):
    model = deep(2)
    model[0].weight.register_hook(lambda gradient: factor * gradient)
    report = checked(model)
    assert report.verdict is Verdict.FAIL
    assert report.table("tensors").column("status")[0] == "wrong"
