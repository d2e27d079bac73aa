"""Gradients that are meant to differ from the slope: a straight-through estimator inside a model.

python examples/check_surrogate.py
"""

from __future__ import annotations

import torch
from torch import nn

import gradvitals as gv


class Round(torch.autograd.Function):
    """Rounds to multiples of 1/8; back it passes the gradient on as it came."""

    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx, grad):
        return grad


quantise = gv.surrogate(Round.apply)


class Quantised(nn.Module):
    def __init__(self, quantise):
        super().__init__()
        self.first, self.second, self.quantise = nn.Linear(6, 8), nn.Linear(8, 3), quantise

    def forward(self, x):
        return self.second(self.quantise(torch.tanh(self.first(x))))


def main():
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    # Not declared: what lies before the rounding has a gradient that isn't the slope.
    print(gv.check(Quantised(Round.apply), x, name="not declared"))
    # Declared: it is a note, and everything around it is checked.
    print(gv.check(Quantised(quantise), x, name="declared"))


if __name__ == "__main__":
    main()
