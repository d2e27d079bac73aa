"""Signals of models on a GPU: measured there, and predicted as if they were on the CPU, where the theory is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(11, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens):
        start = torch.zeros(1, len(tokens), 8, device=self.head.weight.device)
        return self.head(self.lstm(self.embedding(tokens), (start, start))[0][:, -1])


def convolutions():
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(80, 3))


def labelled(y):
    return functional.cross_entropy(y, torch.tensor([0, 1, 2, 1], device=y.device))


CASES = {
    "convolutions": (convolutions, lambda: torch.randn(4, 1, 8, 8)),
    "attention": (encoder, lambda: torch.randn(4, 5, 16)),
    "recurrent": (Recurrent, lambda: torch.randint(11, (4, 5))),
}


def made(name):
    torch.manual_seed(0)
    make, given = CASES[name]
    return make().eval(), given()


def numbers(report):
    return [entry for table in report.tables for row in table.rows for entry in row if isinstance(entry, float)]


@pytest.mark.parametrize("name", CASES)
def test_a_model_on_the_gpu_is_predicted_as_on_the_cpu(device, name):
    model, x = made(name)
    here = numbers(gv.predict(model, x, loss=labelled))
    there = numbers(gv.predict(model.to(device), x.to(device), loss=labelled))
    assert here
    assert there == pytest.approx(here, rel=1e-4, nan_ok=True)
    assert all(parameter.is_cuda for parameter in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_a_model_on_the_gpu_is_measured_as_on_the_cpu(device, name):
    model, x = made(name)
    here = gv.probe(model, x, loss=labelled).table("layers")
    there = gv.probe(model.to(device), x.to(device), loss=labelled).table("layers")
    assert there.column("path") == here.column("path")
    for column in ("forward_rms", "gradient_rms"):
        assert there.column(column) == pytest.approx(here.column(column), rel=1e-2)  # TF32 in convolutions


@pytest.mark.parametrize("name", ["convolutions", "attention"])
def test_singular_values_on_the_gpu_are_those_on_the_cpu(device, name):
    model, x = made(name)
    here = gv.probe(model, x, spectrum=True).table("spectrum")
    there = gv.probe(model.to(device), x.to(device), spectrum=True).table("spectrum")
    assert there.column("sigma_max") == pytest.approx(here.column("sigma_max"), rel=1e-2)


def test_a_start_is_drawn_alike_on_the_gpu(device):
    model, x = made("convolutions")
    gv.init_(model, x, method="analytic", seed=3)
    other, _ = made("convolutions")
    gv.init_(other.to(device), x.to(device), method="analytic", seed=3)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same.cpu())
