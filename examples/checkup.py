"""All three questions at once, changing nothing; and the report as a page.

python examples/checkup.py [report.html]
"""

from __future__ import annotations

import sys

import torch

import gradvitals as gv

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(16, 32),
    torch.nn.ReLU(),
    torch.nn.Dropout(0.2),  # may stay on: each evaluation starts from the same random state
    torch.nn.Linear(32, 32),
    torch.nn.ReLU(),
    torch.nn.Linear(32, 3),
)
x, labels = torch.randn(64, 16), torch.randint(3, (64,))


def loss(logits):
    return torch.nn.functional.cross_entropy(logits, labels)


def main():
    report = gv.checkup(model, x, loss=loss, name="a small classifier")
    print(report)
    if len(sys.argv) > 1:
        print("written to", report.save(sys.argv[1]))


if __name__ == "__main__":
    main()
