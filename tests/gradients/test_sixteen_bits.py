"""Mistakes in bfloat16 that hide where steps are noisy, reach over kinks, or meet the edge of a domain."""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv

SEEDS = range(12)


class Spoilt(torch.autograd.Function):
    """The identity with another backward pass."""

    @staticmethod
    def forward(ctx, x, spoil):
        ctx.spoil = spoil
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.spoil(cotangent), None


def right(gradient):
    return gradient.clone()


def doubled(gradient):
    return 2 * gradient


def reversed_order(gradient):
    return gradient.flip(0)


def beside_a_strong_product(spoil):
    return lambda weak, a, b: Spoilt.apply(weak, spoil) + (a @ b).sum(0)


def near_the_edge_of_its_domain(spoil):
    return lambda x: torch.log1p(Spoilt.apply(x, spoil))


def with_a_scalar(spoil):
    return lambda x, factor: Spoilt.apply(x, spoil) * factor


def inputs_of(function, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator).bfloat16().requires_grad_()

    if function is beside_a_strong_product:
        return normal(5, 10), normal(5, 5, 5), normal(5, 5, 10)
    if function is near_the_edge_of_its_domain:
        return ((torch.rand(5, 5, generator=generator) * 3 - 0.9).bfloat16().requires_grad_(),)
    return normal(3), normal()


@pytest.mark.parametrize(
    ("function", "mistake"),
    [(beside_a_strong_product, doubled), (near_the_edge_of_its_domain, doubled), (with_a_scalar, reversed_order)],
)
def test_mistakes_that_hide_in_sixteen_bits_are_found(function, mistake):
    found = [gv.check(function(mistake), *inputs_of(function, s), precision="native").verdict for s in SEEDS]
    assert found.count(gv.Verdict.PASS) == 0
    assert found.count(gv.Verdict.FAIL) >= 11, found


@pytest.mark.parametrize("function", [beside_a_strong_product, near_the_edge_of_its_domain, with_a_scalar])
def test_the_same_functions_without_a_mistake_are_never_refused(function):
    verdicts = {gv.check(function(right), *inputs_of(function, s), precision="native").verdict for s in SEEDS}
    assert gv.Verdict.FAIL not in verdicts
