"""Does the signal survive the depth? Twenty sigmoid layers, before any training.

python examples/probe.py
"""

from __future__ import annotations

import torch

import gradvitals as gv

torch.manual_seed(0)
layers = [layer for _ in range(20) for layer in (torch.nn.Linear(64, 64), torch.nn.Sigmoid())]
model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
x, labels = torch.randn(128, 64), torch.randint(10, (128,))


def loss(logits):
    return torch.nn.functional.cross_entropy(logits, labels)


def main():
    report = gv.probe(model, x, loss=loss)
    print(report)
    first, *_, last = [row for row in report.table("layers").records() if row["kind"] == "Linear"]
    print(f"gradient at {first['path']}: {first['gradient_rms']:.1e}, at {last['path']}: {last['gradient_rms']:.1e}")


if __name__ == "__main__":
    main()
