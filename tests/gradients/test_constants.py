"""What layers take for constants by design is no mistake: padding rows, the vectors of spectral normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv
from gradvitals import Severity, Verdict

IDS = torch.tensor([[1, 0, 3], [4, 4, 0]])


class Tripled(torch.autograd.Function):
    """2x, with a gradient of 3."""

    @staticmethod
    def forward(ctx, x):
        del ctx
        return 2 * x

    @staticmethod
    def backward(ctx, upstream):
        del ctx
        return 3 * upstream


class Tied(nn.Module):
    """An embedding whose table, padding row and all, is the last layer's weight too."""

    def __init__(self, spoil=lambda x: x):
        super().__init__()
        self.table = nn.Embedding(10, 6, padding_idx=0)
        self.inner = nn.Linear(6, 6)
        self.last = nn.Linear(6, 10)
        self.last.weight = self.table.weight
        self.spoil = spoil

    def forward(self, ids):
        return self.last(torch.tanh(self.inner(self.spoil(self.table(ids)))))


def loss(logits):
    return functional.cross_entropy(logits.flatten(0, 1), IDS.flatten())


def seeded(make, dtype):
    torch.manual_seed(0)
    model = make().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # a padding row needn't be zero
    return model


def noted(report):
    return [finding.evidence["surrogates"] for finding in report.findings if finding.code == "G108"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_the_padding_row_of_an_embedding_is_held_still(dtype, exhaustive):
    model = seeded(Tied, dtype)
    report = gv.check(model, IDS, loss=loss, exhaustive=exhaustive)
    assert report.verdict is Verdict.PASS, str(report)
    assert noted(report) == [("Embedding(padding_idx=0)",)]
    assert not model.table._forward_hooks


def test_padding_that_does_not_occur_is_not_mentioned():
    assert not noted(gv.check(seeded(Tied, torch.float64), IDS.clamp(min=1), loss=loss))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_wrong_layer_behind_padding_is_found(dtype):
    report = gv.check(seeded(lambda: Tied(Tripled.apply), dtype), IDS, loss=loss)
    assert report.verdict is Verdict.FAIL
    (wrong,) = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    assert wrong.evidence["tensors"] == ("table.weight",)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("normalise", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("spoil", [lambda x: x, Tripled.apply])
def test_the_vectors_of_spectral_normalisation_are_held_still(dtype, normalise, spoil):
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = normalise(nn.Linear(6, 8)), normalise(nn.Linear(8, 4))

        def forward(self, x):
            return self.second(spoil(torch.tanh(self.first(x))))

    model = seeded(Critic, dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = gv.check(model, torch.randn(5, 6, dtype=dtype))
    assert report.verdict is (Verdict.FAIL if spoil == Tripled.apply else Verdict.PASS), str(report)
    assert noted(report) == [("spectral_norm",)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
