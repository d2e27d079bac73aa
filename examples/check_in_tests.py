"""Gradients in a test suite: an assertion, and a fixture of the same name.

pytest examples/check_in_tests.py
"""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv


class Clamp(torch.autograd.Function):
    """A clamp to [−1, 1] with its backward pass by hand."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 1)


class LeakyClamp(Clamp):
    """The mask is forgotten: the gradient also flows where the output doesn't move."""

    @staticmethod
    def backward(ctx, grad):
        return grad


X = torch.linspace(-2, 2, 12)


def test_clamp(assert_gradients):
    assert_gradients(Clamp.apply, X)


def test_clamp_in_float64_to_a_hundred_thousandth(assert_gradients):
    assert_gradients(Clamp.apply, X.double(), sensitivity=1e-5)


def test_a_forgotten_mask_is_caught():
    with pytest.raises(AssertionError, match="wrong in the part"):
        gv.assert_gradients(LeakyClamp.apply, X)


def main():
    gv.assert_gradients(Clamp.apply, X)
    try:
        gv.assert_gradients(LeakyClamp.apply, X)
    except AssertionError as failure:
        print(failure)


if __name__ == "__main__":
    main()
