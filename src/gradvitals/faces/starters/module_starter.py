"""A PyTorch network, and its check-up: the backward pass, the signal over the depth, the weights.

1. python STARTER: the report says that all is well.
2. Write torch.sigmoid for torch.relu, and run it again: the gradient vanishes.
3. Put your own network in its place, and a batch that it takes into make(); real data say more than random numbers.

A page of it:  gradvitals checkup STARTER:make --html report.html
"""

import torch
from torch import nn

import gradvitals as gv

# ---- your code: a network --------------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self, depth=12, width=32, classes=10):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, classes)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


# ---- the case: what is examined, with a batch of inputs and the loss as a function of the network's output -----------


def make():
    torch.manual_seed(0)
    x, target = torch.randn(64, 32), torch.randint(0, 10, (64,))
    return gv.Case(Network(), (x,), loss=lambda output: nn.functional.cross_entropy(output, target), name="my network")


if __name__ == "__main__":
    print(gv.checkup(make()))
