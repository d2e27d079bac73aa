"""Do the weights start well? Look at the plan first, then carry it out.

python examples/init.py
"""

from __future__ import annotations

import torch

import gradvitals as gv

torch.manual_seed(0)
layers = [layer for _ in range(20) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
x = torch.randn(128, 64)


def main():
    print(gv.plan_init(model, x))  # changes nothing
    report = gv.init_(model, x, seed=0)  # chosen by what stands around each layer, and how deep the network is
    print(report)
    for name in ("before", "after"):
        rms = [row["forward_rms"] for row in report.table(name).records() if row["kind"] == "Linear"]
        print(f"{name}: the signal's RMS goes from {rms[0]:.2g} at the first layer to {rms[-1]:.2g} at the last")


if __name__ == "__main__":
    main()
