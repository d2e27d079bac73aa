"""What the verbs really report: it follows the published schema, and every key in it has words in every language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tests.oracles.planted import Planted
from torch import nn

from gradvitals._checkup import checkup
from gradvitals.gradients.verb import check
from gradvitals.render.tables import _WORDS
from gradvitals.signals.verb import probe
from gradvitals.signals.verb_scaling import scaling
from gradvitals.vocabulary import Report
from gradvitals.vocabulary.words import LANGUAGES, describe, locale
from gradvitals.weights.verb import init_, plan_init

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))
#: Facts that only choose a sentence or count; the page lists them under their own key where the locale has none.
SCHEMES = {"orthogonal", "lecun", "xavier", "he", "ones", "normal", "uniform"}


def chain(activation: type[nn.Module], scale: float, depth: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(16, 16)
        with torch.no_grad():
            linear.weight.mul_(scale)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def of_width(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 1))


def forgetful(x: np.ndarray) -> float:
    return float((x**2).sum())


def probes(x: torch.Tensor, loss: Any) -> dict[str, Report]:
    """One of every kind of finding on the signal, and of every table."""

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x).square().sqrt()

    one_layer, dead, alike, rows = (chain(nn.ReLU, 2.4, depth=6) for _ in range(4))
    with torch.no_grad():
        one_layer[4].weight.mul_(1e-5)
        dead[4].bias.fill_(-50)
        alike[4].weight.mul_(1e-7)
        rows[4].weight.fill_(0.1)
    saturated = chain(nn.Tanh, 60.0, depth=3)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
    )
    sequences = torch.randn(4, 12, 16)
    sharp = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        sharp.in_proj_weight.mul_(50)
    forgets, explodes = nn.RNN(16, 16, batch_first=True), nn.RNN(16, 16, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        forgets.weight_hh_l0.mul_(0.05)
        explodes.weight_hh_l0.copy_(2 * torch.eye(16))
    other = chain(nn.Tanh, 1.0, depth=2)
    small = chain(nn.Tanh, 1.0, depth=2)
    with torch.no_grad():
        other[2].weight.mul_(1.01)
    overflow = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).half()
    with torch.no_grad():
        overflow[1].weight.fill_(6e4)
    return {
        "probe one layer": probe(one_layer, x),
        "probe dead": probe(dead, x),
        "probe alike": probe(alike, x),
        "probe rows": probe(rows, x),
        "probe saturated": probe(saturated, x),
        "probe residual and cloned": probe(encoder, sequences),
        "probe attention": probe(sharp, sequences, sequences, sequences),
        "probe forgets": probe(forgets, sequences),
        "probe explodes in time": probe(explodes, torch.rand(4, 40, 16)),
        "probe backwards": probe(nn.Sequential(nn.Linear(16, 16), Root(), nn.Linear(16, 3)), x, loss=loss),
        "probe overflow": probe(overflow, 10 * x.half()),
        "probe compiled": probe(torch.compile(small, backend="eager"), x),
        "probe untracked": probe(nn.Sequential(*chain(nn.Sigmoid, 1.0), nn.BatchNorm1d(3)).eval(), x),
        "probe spectrum": probe(small, x, spectrum=True),
        "scaling": scaling(of_width, x, widths=[4, 16, 64], steps=1, seeds=1, learning_rate=1e-4),
        "scaling depth": scaling(lambda depth: chain(nn.Tanh, 1.5, depth), x, depths=[2, 4, 8], steps=0, seeds=1),
        "against": probe(small, x, against=other),
        "against bfloat16": probe(small, x, against=torch.bfloat16),
    }


def reports() -> dict[str, Report]:
    torch.manual_seed(0)
    x, target = torch.randn(24, 16), torch.randint(0, 3, (24,))

    def loss(output: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target)

    point = np.array([1.0, -2.0, 3.0])
    clones = chain(nn.Tanh, 1.0, depth=2)
    nn.init.constant_(clones[0].weight, 0.1)
    broken = chain(nn.ReLU, 1.0, depth=2)
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.nan
    small = chain(nn.Tanh, 1.0, depth=1)
    return {
        "check wrong": check(forgetful, point, grad=lambda x: x),
        "check shape": check(forgetful, point, grad=lambda x: (2 * x)[:2]),
        "check layer": check(nn.Sequential(nn.Linear(16, 3), Planted("sign"), nn.Linear(3, 2)), x, name="layer"),
        "check right": check(small, x, loss=loss),
        "check unresolved": check(small, x, loss=loss, sensitivity=1e-9),
        "reference right": check(torch.sin, x, reference=torch.sin),
        "reference wrong": check(lambda x: 1.01 * x.sin(), x, reference=torch.sin),
        "reference coarse": check(lambda x: x.bfloat16().float().sin(), x, reference=torch.sin),
        "reference in one part": check(lambda x: x.sin() + (torch.arange(16) == 3) * x, x, reference=torch.sin),
        "reference undecided": check(lambda x: (1e9 * x).sin(), x, reference=lambda x: (1e9 * x).sin()),
        "reference of another shape": check(lambda x: x.sum(0, keepdim=True), x, reference=lambda x: x.sum(0)),
        "reference not finite": check(lambda x: 0 / (x > -1.5) + x, x, reference=lambda x: x * 1),
        "reference without a gradient": check(lambda x: x.detach().sin() + x - x, x, reference=torch.sin),
        "reference of another dtype": check(lambda x: x.float().sin(), x.half(), reference=torch.sin),
        "probe vanishing": probe(chain(nn.Sigmoid, 1.0), x),
        "probe exploding": probe(chain(nn.ReLU, 12.0), x, loss=loss),
        "probe not finite": probe(broken, x),
        **probes(x, loss),
        "plan": plan_init(chain(nn.Sigmoid, 1.0), x),
        "plan symmetric": plan_init(clones, x),
        "plan not finite": plan_init(broken, x),
        "init": init_(chain(nn.Sigmoid, 1.0), x, loss=loss),
        "checkup": checkup(small, x, loss=loss),
        "checkup NumPy": checkup(forgetful, point, grad=lambda x: 2 * x),
    }


@pytest.fixture(scope="module")
def real() -> dict[str, Report]:
    return reports()


def test_real_reports_follow_the_schema_and_come_back_from_json(real: dict[str, Report]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for report in real.values():
        for lang in LANGUAGES:
            validator.validate(json.loads(report.to_json(lang=lang)))
        assert Report.from_json(report.to_json()).to_json() == report.to_json()


def test_real_reports_render_in_every_form_and_language(real: dict[str, Report]) -> None:
    for name, report in real.items():
        for lang in LANGUAGES:
            assert report.render("text", lang=lang), name
            assert report.render("html", lang=lang).startswith("<!doctype html>"), name
            assert report.render("fragment", lang=lang), name


def test_sentences_find_all_their_facts(real: dict[str, Report]) -> None:
    for name, report in real.items():
        for finding in report.findings:
            for lang in LANGUAGES:
                said = describe(finding, lang)
                assert "–" not in said.text.replace(" – ", ""), (name, finding.code, said.text)
                assert "{" not in said.text + said.remedy + said.why


def test_every_table_column_and_setting_that_is_reported_has_words(real: dict[str, Report]) -> None:
    words = locale("en")
    missing = set()
    for report in real.values():
        for table in report.tables:
            missing |= {f"table.{table.name}"} if table.name not in words["table"] else set()
            missing |= {f"column.{column}" for column in table.columns if column not in words["column"]}
        for key in (*report.settings, *report.cost):
            missing |= {f"setting.{key}"} if key not in words["setting"] else set()
        for finding in report.findings:
            missing |= {f"column.{key}" for key in finding.evidence if key not in words["column"]}
    assert missing == set()


def test_every_value_that_is_shown_as_a_word_has_one(real: dict[str, Report]) -> None:
    words = locale("en")["value"]
    missing = set()
    for report in real.values():
        for table in report.tables:
            for column in _WORDS & set(table.columns):
                values = {value for value in table.column(column) if isinstance(value, str) and value}
                missing |= {(column, v) for v in values if v not in words and v.split()[0] not in SCHEMES}
        for finding in report.findings:
            likely = finding.evidence.get("likely")
            missing |= {("likely", likely)} if isinstance(likely, str) and likely not in words else set()
    assert missing == set()
