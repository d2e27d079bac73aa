"""A finding says what its remedy would do, and that is what it does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals.frameworks.torch.prediction import predict as prediction
from gradvitals.vocabulary.words import describe


def _mlp(activation, factor, depth=20, width=128):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=factor / math.sqrt(width))
    return nn.Sequential(*layers, nn.Linear(width, 10))


class _Residual(nn.Module):
    def __init__(self, depth=24, width=64):
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        for branch in self.branches:
            nn.init.kaiming_normal_(branch[0].weight)
            nn.init.normal_(branch[2].weight, std=width**-0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


def _loss(y):
    return y.square().mean()


def _of(report, code):
    return next(finding for finding in report.findings if finding.code == code).evidence


def _gain(report, direction):
    table = next(table for table in report.tables if table.name == "gains")
    return next(row for row in table.rows if row[0] == direction)[1]


@pytest.mark.parametrize(("factor", "code", "direction"), [(0.7, "S203", "backward"), (2.5, "S202", "forward")])
def test_the_gain_that_the_scheme_would_give_is_the_one_that_it_gives(factor, code, direction):
    model, x = _mlp(nn.ReLU, factor), torch.randn(64, 128)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = _of(gv.probe(model, x, loss=_loss), code)
    assert facts["remedy_kind"] == "remedy-schemes"
    assert not facts["remedy_short"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert facts["remedy_gain"] == pytest.approx(_gain(gv.probe(model, x, loss=_loss), direction), rel=0.03)
    assert facts["remedy_left"] == pytest.approx(facts["remedy_gain"] ** facts["remedy_layers"], rel=1e-6)


def test_where_other_weights_alone_are_not_enough_it_says_so():
    facts = _of(gv.probe(_mlp(nn.Sigmoid, 1.0), torch.randn(64, 128), loss=_loss), "S203")
    assert facts["remedy_short"]
    assert facts["remedy_gain"] == pytest.approx(0.39, abs=0.02)  # √χ of the sigmoid at its scheme


def test_branches_divided_by_the_root_of_their_number_keep_a_residual_stream():
    model, x = _Residual(), torch.randn(32, 64)
    facts = _of(gv.probe(model, x, loss=_loss), "S202")
    assert facts["remedy_kind"] == "remedy-branches"
    assert not facts["remedy_short"]
    with torch.no_grad():
        for branch in model.branches:
            branch[2].weight /= math.sqrt(len(model.branches))
    assert not gv.probe(model, x, loss=_loss).findings


def test_a_healthy_model_is_not_predicted(monkeypatch):
    monkeypatch.setattr(prediction, "predict", lambda *_, **__: pytest.fail("was predicted"))
    assert not gv.probe(_mlp(nn.ReLU, math.sqrt(2)), torch.randn(64, 128), loss=_loss).findings


class _Strange(nn.Module):
    """An operation of somebody's own, without a rule."""

    def forward(self, x):
        return _strange(x)


@torch.library.custom_op("gradvitals_tests::strange", mutates_args=())
def _strange(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


_strange.register_fake(torch.empty_like)
_strange.register_autograd(lambda _ctx, grad: grad)


class _OnlyOnce:
    def __init__(self):
        self.calls = 0

    def __call__(self, y):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("this loss can be asked once")
        return _loss(y)


def test_where_the_prediction_fails_the_findings_stand_without_it():
    model, x = _mlp(nn.ReLU, 0.7), torch.randn(64, 128)
    strange = _of(gv.probe(nn.Sequential(model[0], _Strange(), *model[1:]), x, loss=_loss), "S203")
    once = _OnlyOnce()
    refused = _of(gv.probe(model, x, loss=once), "S203")
    assert once.calls == 2
    assert "remedy_gain" not in strange
    assert "remedy_gain" not in refused


@pytest.mark.parametrize("lang", ["en", "zh-Hans", "zh-Hant"])
def test_the_words_name_the_gain_in_every_language(lang):
    report = gv.probe(_mlp(nn.Sigmoid, 1.0), torch.randn(64, 128), loss=_loss)
    finding = next(finding for finding in report.findings if finding.code == "S203")
    remedy = describe(finding, lang).remedy
    assert f"× {finding.evidence['remedy_gain']:.4g}" in remedy
    assert "remedy-" not in remedy


def test_weights_of_another_size_are_predicted_as_such():
    model, x = _mlp(nn.ReLU, 0.7, depth=6), torch.randn(64, 128)
    names = [name for name, parameter in model.named_parameters() if parameter.ndim == 2]
    said = gv.predict(model, x, weight_rms=dict.fromkeys(names, math.sqrt(2 / 128)))
    assert _gain(said, "forward") == pytest.approx(1.0, abs=0.03)


def test_layers_with_a_bias_are_predicted_on_the_meta_device():
    layers = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]
    model = nn.Sequential(*layers)
    real = gv.predict(model, torch.randn(16, 64), loss=_loss)
    meta = gv.predict(nn.Sequential(*layers).to("meta"), torch.randn(16, 64, device="meta"), loss=_loss)
    assert not meta.findings
    sizes = [
        [row[6] for row in next(table for table in report.tables if table.name == "layers").rows]
        for report in (real, meta)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize(
    ("model", "code", "kind"),
    [
        (_mlp(nn.ReLU, 0.7), "S203", "remedy-schemes"),
        (_mlp(nn.ReLU, 2.5), "S202", "remedy-schemes"),
        (_Residual(), "S202", "remedy-branches"),
    ],
)
def test_a_prediction_gives_the_advice_that_a_probe_gives(model, code, kind):
    x = torch.randn(32, next(model.parameters()).shape[1])
    measured, foretold = _of(gv.probe(model, x, loss=_loss), code), _of(gv.predict(model, x, loss=_loss), code)
    assert foretold["remedy_kind"] == measured["remedy_kind"] == kind
    for fact in ("advice", "scheme", "layer", "remedy_short"):
        assert foretold.get(fact) == measured.get(fact)
    assert foretold["remedy_gain"] == pytest.approx(measured["remedy_gain"], rel=1e-3)


def test_a_model_on_the_meta_device_gets_advice_as_well():
    with torch.device("meta"):
        layers = [layer for _ in range(20) for layer in (nn.Linear(128, 128), nn.ReLU())]
        model, x = nn.Sequential(*layers, nn.Linear(128, 10)), torch.empty(64, 128)
    facts = _of(gv.predict(model, x, loss=_loss), "S203")
    assert (facts["scheme"], facts["remedy_short"]) == ("He", False)
    assert facts["std_wanted"] == pytest.approx(math.sqrt(2 / 128))
