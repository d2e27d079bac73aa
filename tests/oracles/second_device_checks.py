"""Run as a script: checks of functions and models on a second device; prints what each gave, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
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


def labelled(y):
    return nn.functional.cross_entropy(y, torch.tensor([0, 1, 2, 1]).to(y.device))


def convolutions(device="second"):
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).to(device)


def encoder(device="second"):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(device)


class Recurrent(nn.Module):
    """Its buffer is made where the input is, which is asked for by name."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(11, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((8,), 2.0))

    def forward(self, tokens):
        start = torch.zeros(1, len(tokens), 8, device=self.scale.device)
        return self.head(self.lstm(self.scale * self.embedding(tokens), (start, start))[0][:, -1])


def recurrent(device="second"):
    torch.manual_seed(0)
    return Recurrent().to(device)


TOKENS = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
SEQUENCES = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))
PREDICTED = {"convolutions": (convolutions, IMAGES, labelled), "attention": (encoder, SEQUENCES, square)}
PREDICTED |= {"a recurrent net": (recurrent, TOKENS, labelled)}


def entries(report):
    return [entry for table in report.tables for row in table.rows for entry in row]


def predicted_alike(name, here):
    """A prediction there, which is to be that of the same model here."""
    make, given, loss = PREDICTED[name]
    there = gv.predict(make(), given.to("second"), loss=loss)
    if not entries(here):
        raise AssertionError(f"nothing predicted here: {here}")
    for one, other in zip(entries(here), entries(there), strict=True):
        if one != (pytest.approx(other, rel=1e-5) if isinstance(one, float) else other):
            raise AssertionError(f"{one} here, {other} there")
    return there


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
    "probe of convolutions": lambda: gv.probe(convolutions(), IMAGES.to("second"), loss=labelled),
    "probe of attention": lambda: gv.probe(encoder(), SEQUENCES.to("second"), loss=square),
    "spectrum": lambda: gv.probe(encoder(), SEQUENCES.to("second"), spectrum=True),
    "against": lambda: gv.probe(convolutions(), IMAGES.to("second"), against=convolutions()),
    "plan_init": lambda: gv.plan_init(network(), x(4, 3)),
    "init_": lambda: gv.init_(encoder(), SEQUENCES.to("second")),
    **{
        f"init_ {method}": lambda method=method: gv.init_(convolutions(), IMAGES.to("second"), method=method)
        for method in ("analytic", "calibrated", "tailored", "critical", "scaled-residual", "auto")
    },
}


def main():
    given = {}
    with second_device():  # which is to be known before the first backward pass
        pass
    here = {name: gv.predict(make("cpu"), x, loss=loss) for name, (make, x, loss) in PREDICTED.items()}
    predictions = {f"predict {name}": lambda name=name: predicted_alike(name, here[name]) for name in PREDICTED}
    with second_device():
        for name, run in (CHECKS | predictions).items():
            try:
                report = run()
                given[name] = [report.verdict.value, [f.code for f in report.findings], report.cost.get("evaluation")]
            except Exception as error:  # noqa: BLE001 - the test says which of them raised
                given[name] = ["raised", [f"{type(error).__name__}: {error}"], None]
    print(json.dumps(given))  # noqa: T201 - for the test that runs it


if __name__ == "__main__":
    main()
