"""Run as a script: checks of functions and models on a second device; prints what each gave, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from second_device import second_device

import gradvitals as gv


class Sin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class WrongSin(Sin):
    @staticmethod
    def backward(ctx, grad):
        return 1.01 * Sin.backward(ctx, grad)


class Wrong(nn.Module):
    def forward(self, x):
        return WrongSin.apply(x)


def x(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1)).to("second")


def network(dtype=torch.float32, middle=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), middle(), nn.Dropout(0.3), nn.Linear(5, 2)).to("second", dtype)


def square(y):
    return y.square().mean()


def rounded(v):
    return v + (v.round() - v).detach()


CHECKS = {
    "float64": lambda: gv.check(torch.tanh, x(4, 3, dtype=torch.float64)),
    "float32": lambda: gv.check(torch.tanh, x(4, 3)),
    "bfloat16": lambda: gv.check(torch.tanh, x(4, 3, dtype=torch.bfloat16)),
    "float16": lambda: gv.check(torch.tanh, x(4, 3, dtype=torch.float16)),
    "complex": lambda: gv.check(torch.tanh, x(4, 3, dtype=torch.complex128)),
    "custom": lambda: gv.check(Sin.apply, x(4, 3)),
    "wrong": lambda: gv.check(WrongSin.apply, x(4, 3)),
    "wrong layer": lambda: gv.check(network(middle=Wrong), x(4, 3), loss=square),
    "network": lambda: gv.check(network(), x(4, 3), loss=square),
    "float64 slopes": lambda: gv.check(network(), x(4, 3), loss=square, precision="float64"),
    "exhaustive": lambda: gv.check(network(), x(4, 3), loss=square, exhaustive=True),
    "second order": lambda: gv.check(torch.tanh, x(4, 3, dtype=torch.float64), order=2),
    "reference": lambda: gv.check(network(torch.bfloat16).eval(), x(4, 3).bfloat16(), reference=network().eval()),
    "wrong beside reference": lambda: gv.check(WrongSin.apply, x(4, 3), reference=torch.sin),
    "kinks": lambda: gv.check(torch.relu, torch.tensor([[-1.0, 0.0, 2.0], [0.5, 0.0, 1.0]]).to("second")),
    "surrogate": lambda: gv.check(lambda v: gv.surrogate(rounded)(v).square(), x(4, 3)),
    "burnt in": lambda: gv.check(network(), x(4, 3), loss=square, burn_in=2),
    "batch norm": lambda: gv.check(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to("second"), x(6, 3)),
    "embedding": lambda: gv.check(nn.Embedding(7, 3).to("second"), torch.tensor([[1, 2], [3, 1]]).to("second")),
    "probe": lambda: gv.probe(network(), x(4, 3), loss=square),
    "plan_init": lambda: gv.plan_init(network(), x(4, 3)),
}


def main():
    given = {}
    with second_device():
        for name, run in CHECKS.items():
            try:
                report = run()
                given[name] = [report.verdict.value, [f.code for f in report.findings], report.cost.get("evaluation")]
            except Exception as error:  # noqa: BLE001 - the test says which of them raised
                given[name] = ["raised", [f"{type(error).__name__}: {error}"], None]
    print(json.dumps(given))  # noqa: T201 - for the test that runs it


if __name__ == "__main__":
    main()
