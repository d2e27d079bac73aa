"""Which layer of a model has a wrong backward pass, which entries are wrong, and is the second derivative right?

python examples/check_model.py
"""

from __future__ import annotations

import torch
from torch import nn

import gradvitals as gv


class Scale(torch.autograd.Function):
    """x · w for each column; the gradient of w is averaged over the batch, where it should be added up."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, (grad * x).mean(0)


class Scaled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x):
        return Scale.apply(x, self.weight)


def main():
    torch.manual_seed(0)
    x, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    model = nn.Sequential(nn.Linear(5, 8), Scaled(8), nn.Tanh(), nn.Linear(8, 3))

    def loss(y):
        return nn.functional.cross_entropy(y, labels)

    print(gv.check(model, x, loss=loss, name="a model with a layer by hand"))

    right = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    report = gv.check(right, x, loss=loss, exhaustive=True, name="every entry")
    print(report.verdict.value, "with every one of the entries measured")
    report = gv.check(right.double(), x.double(), loss=loss, order=2, name="second derivative")
    print(report.verdict.value, "for the second derivative too")


if __name__ == "__main__":
    main()
