"""The predicted gradient of each parameter against what many draws of the weights give."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradvitals as gv

SEEDS = 12


class _Tied(nn.Module):
    """One weight is a table, a layer, and the head."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(40, 64), nn.Linear(64, 64)

    def forward(self, ids):
        hidden = torch.tanh(self.mix(torch.tanh(self.mix(self.table(ids)))))
        return F.linear(hidden, self.table.weight)


class _Attending(nn.Module):
    """A packed weight of which each third is used for something else."""

    def __init__(self):
        super().__init__()
        self.packed = nn.Linear(64, 192)

    def forward(self, x):
        first, second, third = self.packed(x).chunk(3, dim=-1)
        return torch.tanh(first) + torch.relu(second) * torch.sigmoid(third)


def _plain():
    return nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 16))


def _convolutions():
    return nn.Sequential(
        *(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, stride=2, groups=4), nn.Tanh()),
        *(nn.ConvTranspose2d(48, 24, 2, stride=2), nn.GELU(), nn.Conv2d(24, 32, 3, bias=False)),
    )


def _normalised():
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),  # a bias there has no gradient
        *(nn.Conv2d(64, 64, 3), nn.GroupNorm(4, 64)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32)),
    )


class _Form(nn.Module):
    """A bilinear form, of rows of a table that are averaged and of a layer."""

    def __init__(self):
        super().__init__()
        self.bag, self.mix, self.form = nn.EmbeddingBag(40, 64, mode="mean"), nn.Linear(64, 64), nn.Bilinear(64, 64, 48)

    def forward(self, ids):
        rows = self.bag(ids)
        return self.form(torch.relu(self.mix(rows)), torch.tanh(rows))


def _ids():
    return torch.randint(0, 40, (16, 6))


CASES = {
    "a bilinear form of averaged rows": (_Form, _ids),
    "linear layers": (_plain, lambda: torch.randn(32, 96)),
    "convolutions": (_convolutions, lambda: torch.randn(8, 3, 12, 12)),
    "normalisations": (_normalised, lambda: torch.randn(16, 3, 8, 8)),
    "a table that is tied": (_Tied, _ids),
    "parts of a weight": (_Attending, lambda: torch.randn(8, 5, 64)),
}


def _tables(report):
    table = next(table for table in report.tables if table.name == "parameters")
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_parameters_are_what_many_draws_give(name):
    make, inputs = CASES[name]
    ratios: dict[str, list[float]] = {}
    inside = total = 0
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model, x = make(), inputs()
        with torch.no_grad():
            sent = torch.randn(model(x).shape)
        loss = lambda y, sent=sent: (y * sent).mean()  # noqa: E731
        said, seen = (_tables(verb(model, x, loss=loss)) for verb in (gv.predict, gv.probe))
        for path, row in said.items():
            predicted, measured = row["gradient_rms"], seen[path]["gradient_rms"]
            assert predicted is not None, path
            off = math.log(measured / predicted)
            ratios.setdefault(path, []).append(off)
            inside += abs(off) <= 2 * math.hypot(row["gradient_rms_error"], 0.05)
            total += 1
    for path, offs in ratios.items():
        mean = sum(offs) / len(offs)
        scatter = math.sqrt(sum((off - mean) ** 2 for off in offs) / (len(offs) - 1) / len(offs))
        assert abs(mean) < 0.05 + 2 * scatter, (path, mean, scatter)
    assert inside >= 0.8 * total


def test_a_use_more_adds_to_a_tied_weight():
    torch.manual_seed(0)
    model, ids = _Tied(), _ids()
    sent = torch.randn(16, 6, 40)
    tied = _tables(gv.predict(model, ids, loss=lambda y: (y * sent).mean()))
    model.head = nn.Parameter(model.table.weight.detach().clone())
    model.forward = lambda ids: F.linear(torch.tanh(model.mix(torch.tanh(model.mix(model.table(ids))))), model.head)
    parts = _tables(gv.predict(model, ids, loss=lambda y: (y * sent).mean()))
    together = math.hypot(parts["table.weight"]["gradient_rms"], parts["head"]["gradient_rms"])
    assert tied["table.weight"]["gradient_rms"] == pytest.approx(together, rel=0.02)


def test_frozen_and_unused_parameters_have_no_gradient():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight.requires_grad_(requires_grad=False)
    model.unused = nn.Parameter(torch.randn(3, 3))
    model.forward = lambda x: model[1](model[0](x))
    table = _tables(gv.predict(model, torch.randn(4, 8)))
    assert table["0.weight"]["gradient_rms"] is None
    assert table["unused"]["gradient_rms"] is None
    assert table["1.weight"]["gradient_rms"] > 0


def test_predicted_and_measured_gradients_of_parameters_stand_beside_one_another():
    torch.manual_seed(0)
    model, x = _plain(), torch.randn(32, 96)
    report = gv.predict(model, x, loss=lambda y: y.square().mean(), against="probe")
    table = next(table for table in report.tables if table.name == "parameter_agreement")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [name for name, _ in model.named_parameters()]
    for row in rows.values():
        assert row["gradient_ratio"] == pytest.approx(row["gradient_measured"] / row["gradient_predicted"])
        assert row["gradient_deviations"] < 4


def test_the_stated_error_of_gradients_holds_what_a_loss_makes_of_chance_in_the_outputs():
    inside, departures = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
        x, loss = torch.randn(6, 32), lambda y: y.square().mean()
        said = gv.predict(model, x, loss=loss, seed=seed).table("layers")
        seen = gv.probe(model, x, loss=loss).table("layers").column("gradient_rms")
        errors = zip(said.column("gradient_rms"), said.column("gradient_rms_error"), seen, strict=True)
        z = [math.log(measured / predicted) / error for predicted, error, measured in errors]
        inside += [abs(one) < 2 for one in z]
        departures += z
    assert statistics.fmean(inside) > 0.9
    assert statistics.pstdev(departures) == pytest.approx(1, abs=0.3)  # and isn't too wide either
