"""The verb: what a user gives, and what the report shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals import Case, Report
from gradvitals.signals import probe
from gradvitals.vocabulary import InputError, ModelError, UsageError
from oracles.networks import default, he, mlp, scaled, vectors

LAYERS = (
    *("path", "call", "kind", "shape", "forward_mean", "forward_std", "forward_rms", "zero_share", "dead_share"),
    *("saturated_share", "sample_cosine", "gradient_rms", "nonfinite"),
)


@pytest.fixture
def sigmoid_network():
    torch.manual_seed(0)
    return mlp(20, nn.Sigmoid, default), vectors()


def test_tables_have_the_promised_columns_and_a_row_per_call(sigmoid_network):
    report = probe(*sigmoid_network)
    assert report.table("layers").columns[: len(LAYERS)] == LAYERS
    assert len(report.table("layers")) == 41
    assert report.table("parameters").columns[:3] == ("path", "weight_rms", "gradient_rms")
    assert len(report.table("parameters")) == 42
    assert report.table("gains").column("direction") == ("forward", "backward")
    assert report.verb == "probe"
    assert report.settings["objective"] == "random"
    assert report.settings["mode"] == "train"
    assert report.cost["seconds"] > 0


def test_a_vanishing_gradient_is_told_with_its_gain_and_the_layer_where_half_is_lost(sigmoid_network):
    report = probe(*sigmoid_network)
    finding, _ = report.findings
    facts = finding.evidence
    assert (finding.code, finding.site.path) == ("S203", "0")
    assert (facts["first"], facts["last"], facts["layers"], facts["lost_at"]) == ("0", "38", 19, "36")
    assert facts["gain"].value == pytest.approx(0.14, abs=0.02)
    assert facts["left"] == pytest.approx(facts["gain"].value ** 19)
    rms = dict(zip(report.table("layers").column("path"), report.table("layers").column("gradient_rms"), strict=True))
    assert facts["left"] == pytest.approx(rms["0"] / rms["38"], rel=2)
    assert "Half of it is lost by 36" in str(report)


def test_signal_gain_is_a_ratio_of_rms_values():
    """Weights of variance g²·2/n multiply the RMS of a wide ReLU network by g at each layer, forwards and backwards."""
    torch.manual_seed(0)
    model = mlp(8, nn.ReLU, scaled(1.2 * 2**0.5), width=512)
    gains = dict(zip(*(probe(model, vectors()).table("gains").column(c) for c in ("direction", "gain")), strict=True))
    assert gains["forward"] == pytest.approx(1.2, rel=0.03)
    assert gains["backward"] == pytest.approx(1.2, rel=0.03)


def test_layers_side_by_side_count_once_and_the_head_is_left_out():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(8, 8) for _ in range(3)) for _ in range(5))
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            for block in self.blocks:
                x = torch.relu(sum(layer(x) for layer in block))
            return self.head(x)

    row = next(probe(Wide(), torch.randn(4, 8)).table("gains").records())
    assert (row["layers"], row["first"], row["last"]) == (4, "blocks.0.0", "blocks.4.2")


def test_shallow_networks_have_no_gain_per_layer():
    assert len(probe(mlp(3, nn.ReLU, default), vectors()).table("gains")) == 0


def test_vanishing_through_time_is_a_warning_for_the_one_layer_that_is_called_again():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(4, 16)
            nn.init.orthogonal_(self.cell.weight_hh, gain=0.5)

        def forward(self, x):
            h = torch.zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return h

    report = probe(Recurrent(), 0.1 * torch.randn(4, 30, 4))
    (finding,) = report.findings
    assert (finding.name, finding.evidence["likely"]) == ("gradient-vanishing", "through-time")
    assert finding.evidence["last"] == "cell #28"
    assert report.ok


def test_a_report_travels_as_json(sigmoid_network):
    report = probe(*sigmoid_network)
    again = Report.from_json(report.to_json())
    assert again.findings == report.findings
    assert again.table("gains") == report.table("gains")
    assert json.loads(report.to_json())["verdict"] == "fail"


@pytest.mark.parametrize("lang", ["en", "zh-Hans", "zh-Hant"])
def test_every_sentence_has_its_facts(sigmoid_network, lang):
    for model in (sigmoid_network[0], mlp(20, nn.ReLU, scaled(3.0)), mlp(20, nn.ReLU, scaled(0.3))):
        for finding in json.loads(probe(model, vectors()).to_json(lang=lang))["findings"]:
            assert "–" not in finding["text"]
            assert "{" not in finding["text"]


def test_a_case_serves_as_well_and_progress_is_told():
    steps = []
    case = Case(mlp(2, nn.ReLU, he), (vectors(),), loss=lambda y: y.mean(), name="mine")
    report = probe(case, progress=lambda done, total: steps.append((done, total)))
    assert (report.subject, report.settings["objective"]) == ("mine", "loss")
    assert steps[-1][0] == steps[-1][1]


def test_keywords_of_the_model_go_in_kwargs():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = probe(layer, torch.randn(2, 3, 8), kwargs={"is_causal": False, "src_mask": None})
    assert report.settings["mode"] == "eval"


def test_a_misspelt_keyword_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'loss'"):
        probe(nn.Linear(2, 2), torch.ones(1, 2), los=sum)


@pytest.mark.parametrize("model", [np.sin, torch.relu, lambda x: x])
def test_functions_are_refused_with_a_hint(model):
    x = np.ones(3) if model is np.sin else torch.ones(3)
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        probe(model, x)


def test_a_model_without_any_layer_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return x * 2

    with pytest.raises(InputError, match="no layer"):
        probe(Nothing(), torch.ones(2, 3))


def test_a_model_without_parameters_is_fine():
    report = probe(nn.Sequential(nn.Flatten(), nn.Tanh()), torch.randn(4, 2, 3))
    assert report.verdict.value == "pass"
    assert report.table("layers").column("gradient_rms") == (None, None)


@pytest.mark.parametrize(
    ("x", "error"),
    [(torch.ones(0, 32), InputError), (torch.full((2, 32), float("nan")), InputError), (torch.ones(2, 3), ModelError)],
)
def test_bad_input_is_an_exception_in_three_parts(x, error):
    with pytest.raises(error) as caught:
        probe(mlp(2, nn.ReLU, he), x)
    assert str(caught.value).count("\n") == 2
