"""Examine a PyTorch module: its backward pass, its signal over the depth, its weights.

python STARTER                      prints the report
gradvitals checkup STARTER:make     the same, with --html FILE for a page
"""

import torch
from torch import nn

import gradvitals as gv

# ---- your code goes here: a module and a batch that it takes -------------------------------------------------------


class Network(nn.Module):
    def __init__(self, depth=12, width=32):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))  # try it: write torch.sigmoid and run this file again
        return self.head(x)


def batch():
    """Some inputs and their targets; real data say more than random ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator)
    target = torch.randint(0, 10, (64,), generator=generator)
    return x, target


# --------------------------------------------------------------------------------------------------------------------


def make():
    """The case: the model, its inputs, and the loss as a function of its output."""
    torch.manual_seed(0)
    x, target = batch()
    return gv.Case(Network(), (x,), loss=lambda output: nn.functional.cross_entropy(output, target), name="my network")


if __name__ == "__main__":
    print(gv.checkup(make()))
