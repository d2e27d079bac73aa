"""``checkup``: the three questions at once, whatever it is asked of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Case, ModelError, UsageError, Verdict


def network(depth: int = 3, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def batch() -> torch.Tensor:
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def test_it_holds_the_tables_and_findings_of_all_three() -> None:
    model, x = network(12, nn.Sigmoid), batch()
    parts = [gv.check(model, x, loss=square), gv.probe(model, x, loss=square), gv.plan_init(model, x)]
    whole = gv.checkup(model, x, loss=square)
    assert whole.tables == tuple(table for part in parts for table in part.tables)
    found = sorted(finding.code for part in parts for finding in part.findings)
    assert sorted(finding.code for finding in whole.findings) == found != []
    assert whole.verdict is Verdict.FAIL
    for part in parts:
        assert set(part.settings) <= set(whole.settings)
    for key in ("forwards", "backwards"):
        assert whole.cost[key] == sum(int(str(part.cost[key])) for part in parts)


def test_the_worst_comes_first_and_a_cause_before_its_effects() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    report = gv.checkup(model, batch(), loss=square)
    assert report.verdict is Verdict.FAIL
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, reverse=True)
    codes = list(dict.fromkeys(finding.code for finding in report.findings))
    assert codes[:3] == ["W304", "S211", "G103"]
    assert "2.weight" in str(report)
    assert gv.Report.from_json(report.to_json()).verdict is Verdict.FAIL


def test_a_sound_network_passes() -> None:
    report = gv.checkup(network(), batch(), loss=square, seed=3, name="sound")
    assert (report.verb, report.subject, report.verdict) == ("checkup", "sound", Verdict.PASS)
    assert (report.settings["seed"], report.settings["objective"]) == (3, "loss")
    assert "skipped" not in report.settings


def test_a_case_is_taken_as_it_is() -> None:
    assert gv.checkup(Case(network(), (batch(),), loss=square, name="mine")).subject == "mine"


@pytest.mark.parametrize(
    ("model", "inputs", "keywords"),
    [
        (lambda x: torch.sin(x) * 2, (torch.ones(3, 2),), {}),
        (nn.Sequential(nn.Tanh(), nn.Softmax(-1)), (torch.ones(3, 2),), {}),
        (lambda x: (x**2).sum(), (np.ones(3),), {"grad": lambda x: 2 * x}),
        (np.square, (np.ones(3),), {"vjp": lambda dout: 2 * dout}),
    ],
    ids=["torch function", "module without parameters", "NumPy function", "NumPy layer"],
)
def test_where_there_are_no_layers_the_first_question_is_asked_alone(model, inputs, keywords) -> None:
    report = gv.checkup(model, *inputs, **keywords)
    assert report.ok
    assert (report.settings["skipped"], report.settings["reason"]) == (("probe", "plan_init"), "no-layers")
    assert [table.name for table in report.tables] == ["tensors", "entries"]
    assert "only the backward pass was checked" in " ".join(str(report).split())


def test_frozen_models_and_models_without_a_loss_are_examined() -> None:
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    report = gv.checkup(model, batch())
    assert report.settings["objective"] == "random"
    assert report.table("tensors").column("path") == ("input",)
    assert set(report.table("plan").column("reason")) == {"frozen"}


def test_a_model_that_raises_is_an_exception_with_its_cause() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("on purpose")

    with pytest.raises(ModelError, match="on purpose") as caught:
        gv.checkup(Broken(), torch.ones(2, 4))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_misspelt_keyword_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'loss'") as caught:
        gv.checkup(network(), batch(), los=square)
    assert "checkup() has no keyword 'los'" in caught.value.what


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    gv.checkup(network(1), batch(), loss=square, progress=lambda done, total: told.append((done, total)))
    assert told
    assert all(done > 0 for done, _ in told)
