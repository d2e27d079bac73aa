"""What should become of signal and gradient? Theory alone, of a model that takes no memory; then beside a measurement.

python examples/predict.py
"""

from __future__ import annotations

import torch
from torch import nn

import gradvitals as gv


def make_model(width, depth):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main():
    with torch.device("meta"):  # 800 million parameters without values: PyTorch's default start is assumed
        report = gv.predict(make_model(width=4096, depth=48), torch.empty(32, 4096))
    finding = report.findings[0].evidence
    print(f"4096 wide, on the way back: × {finding['gain'].value:.2f} per layer")
    print(f"with the weights that the remedy asks for: × {finding['remedy_gain']:.2f} per layer")

    torch.manual_seed(0)
    report = gv.predict(make_model(width=128, depth=12), torch.randn(64, 128), against="probe")
    print("\nlayer  predicted  measured")
    for row in report.table("agreement").records():
        if row["kind"] == "Linear":
            print(f"{row['path']:<6} {row['forward_predicted']:9.3f} {row['forward_measured']:9.3f}")
    print(f"layers outside of the band: {sum(finding.code == 'S210' for finding in report.findings)}")


if __name__ == "__main__":
    main()
