"""Does a learning rate that suits a small model suit a large one? The coordinate check, for two ways to set it.

python examples/scaling.py
"""

from __future__ import annotations

import torch
from torch import nn

import gradvitals as gv

torch.manual_seed(0)
x, target = torch.randn(32, 16), torch.randn(32, 1)


def loss(y):
    return (y - target).square().mean()


def make_model(width):
    return nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def make_small_output(width):
    model = make_model(width)
    with torch.no_grad():
        model[-1].weight.mul_(width**-0.5)
    return model


def rates_by_layer(model):
    """Maximal update parametrisation: with Adam one over the width at hidden and output layers."""
    first, *others = [layer for layer in model if isinstance(layer, nn.Linear)]
    groups = [{"params": first.parameters(), "lr": 0.003}]
    groups += [{"params": [layer.weight], "lr": 0.1 / layer.in_features} for layer in others]
    groups += [{"params": [layer.bias], "lr": 0.003} for layer in others]
    return torch.optim.Adam(groups)


def main():
    widths = [32, 64, 128, 256]
    for make, optimizer in ((make_model, "adam"), (make_small_output, rates_by_layer)):
        report = gv.scaling(make, x, widths=widths, loss=loss, optimizer=optimizer, steps=1)
        updates = [row for row in report.table("scaling").records() if row["quantity"] == "update_rms"]
        print(f"{make.__name__}: {report.verdict.value.upper()}")
        for row in updates:
            if row["kind"] == "Linear":
                exponent = f"{row['exponent']:.1f} (± {row['exponent_error']:.1f})"
                print(f"  the update of {row['path']} grows as the width to the power {exponent}")


if __name__ == "__main__":
    main()
