"""Flat activations at the end of a model, flat gates inside recurrent layers, and calls that pass no gradient back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.signals import probe
from gradvitals.vocabulary import Severity


def found(code, model, x, loss):
    torch.manual_seed(0)
    findings = probe(model, x, loss=loss).findings
    return [finding.site.path for finding in findings if finding.code == code and finding.severity >= Severity.WARNING]


def sure(outputs, last, scale=100.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs), last)
    with torch.no_grad():
        model[2].weight.mul_(scale)
    return model


X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
COINS = (X[:, :8] > 0).float().roll(1, 0)
CLASSES = torch.arange(64) % 8


def test_a_last_sigmoid_that_is_flat_under_a_mean_square_is_saturated():
    assert found("S206", sure(8, nn.Sigmoid()), X, lambda y: F.mse_loss(y, COINS)) == ["3"]


def test_a_last_sigmoid_that_is_flat_under_its_cross_entropy_is_not():
    assert found("S206", sure(8, nn.Sigmoid(), 30.0), X, lambda y: F.binary_cross_entropy(y, COINS)) == []


def test_a_last_sigmoid_that_is_flat_and_right_is_not():
    model = sure(8, nn.Sigmoid())
    target = (model(X) > 0.5).float()
    assert found("S206", model, X, lambda y: F.mse_loss(y, target)) == []


def test_a_last_softmax_that_is_sure_and_wrong_is_saturated_unless_the_loss_takes_its_logarithm():
    model = sure(8, nn.Softmax(1), 200.0)
    assert found("S206", model, X, lambda y: F.cross_entropy(y, CLASSES)) == ["3"]
    assert found("S206", model.double(), X.double(), lambda y: F.nll_loss(y.log(), CLASSES)) == []


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_on_inputs_of_thousands_is_saturated(kind):
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.head = kind(16, 32, batch_first=True), nn.Linear(32, 8)

        def forward(self, x):
            return self.head(self.read(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Read(), X[:, None] + 0.1 * torch.randn(64, 12, 16)
    loss = lambda y: F.cross_entropy(y, CLASSES)  # noqa: E731
    assert found("S206", model, 1000 * x, loss) == ["read"]
    assert found("S206", model, x, loss) == []


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_recurrent_cell_on_inputs_of_thousands_is_saturated(kind):
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = kind(16, 32), nn.Linear(32, 8)

        def forward(self, x):
            state = None
            for _ in range(5):
                state = self.cell(x, state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    torch.manual_seed(0)
    model = Read()
    loss = lambda y: F.cross_entropy(y, CLASSES)  # noqa: E731
    assert [path.split()[0] for path in found("S206", model, 1000 * X, loss)] == ["cell"]
    assert found("S206", model, X, loss) == []


def test_a_softmax_over_one_value_passes_no_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1), nn.Softmax(1))
    assert found("S203", model, X, lambda y: F.mse_loss(y, COINS[:, :1])) == ["3"]


def test_scores_behind_a_softmax_over_an_axis_of_one_never_learn():
    class Weighed(nn.Module):
        def __init__(self, axis):
            super().__init__()
            self.score, self.head, self.axis = nn.Linear(4, 1), nn.Linear(4, 8), axis

        def forward(self, x):
            x = x.unflatten(1, (4, 4))
            return self.head((torch.softmax(self.score(x), self.axis) * x).sum(1))

    torch.manual_seed(0)
    assert found("S203", Weighed(-1), X, lambda y: F.cross_entropy(y, CLASSES)) == ["softmax()"]
    assert found("S203", Weighed(1), X, lambda y: F.cross_entropy(y, CLASSES)) == []


def test_rounding_passes_no_gradient():
    class Round(nn.Module):
        def forward(self, x):
            return torch.round(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), Round(), nn.Linear(8, 8))
    assert found("S203", model, X, lambda y: F.cross_entropy(y, CLASSES)) == ["1"]


@pytest.mark.parametrize("what", ["head", "gate"])
def test_what_starts_at_zero_will_pass_a_gradient_later(what):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm, self.head = nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 8)
            self.gate = nn.Parameter(torch.zeros(8))

        def forward(self, x):
            return self.head(self.norm(1 + self.gate * self.body(x) + torch.arange(8.0)))

    torch.manual_seed(0)
    model = Gated() if what == "gate" else nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8))
    if what == "head":
        nn.init.zeros_(model[2].weight)
    assert found("S203", model, X, lambda y: F.cross_entropy(y, CLASSES)) == []


def test_a_normalisation_of_one_value_gives_nothing():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv1d(1, 8, 3), nn.GroupNorm(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.head(self.norm(self.conv(x[:, None]).relu().mean(2)))

    assert found("S201", Pooled(), X, lambda y: F.cross_entropy(y, CLASSES)) == ["norm"]


@pytest.mark.parametrize(("layer", "expected"), [("2", []), ("0", ["0.weight"])])
def test_units_that_are_copies_matter_unless_they_are_outputs_whose_labels_are_missing(layer, expected):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        for at in ("0", "2") if layer == "0" else ("2",):
            weight, bias = model[int(at)].weight, model[int(at)].bias
            weight[1], bias[1] = weight[0], bias[0]
        if layer == "0":
            model[2].weight[:, 1] = model[2].weight[:, 0]
    labels = 2 + CLASSES % 6
    assert found("S208", model, X, lambda y: F.cross_entropy(y, labels)) == expected
