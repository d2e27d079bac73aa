"""What the rules find in weights, and that they are silent where all is well."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.vocabulary import Severity, words
from gradvitals.weights import TrainedWeightsWarning, compare_init, init_, plan_init
from gradvitals.weights.rules import RULES
from oracles import networks


def mlp(activation, depth=4, width=32):
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


X = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))


def findings(model, *inputs):
    return {finding.code: finding for finding in plan_init(model, *inputs).findings}


def scaled(model, factor):
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, factor * (2 / layer.in_features) ** 0.5)
            nn.init.zeros_(layer.bias)
    return model


def test_weights_far_too_large_are_one_finding_that_lists_the_layers():
    torch.manual_seed(0)
    found = findings(scaled(mlp(nn.ReLU, depth=20), 5), X)
    assert set(found) == {"W301"}
    evidence = found["W301"].evidence
    assert found["W301"].severity is Severity.WARNING
    assert len(evidence["paths"]) == 19
    assert evidence["ratio"] == pytest.approx(5, rel=0.1)
    assert (evidence["scheme"], evidence["activation"]) == ("He", "relu")
    assert evidence["total"] == pytest.approx(5.0**19, rel=0.9)


def test_torchs_default_in_a_deep_sigmoid_network_is_off():
    torch.manual_seed(0)
    found = findings(mlp(nn.Sigmoid, depth=20), X)
    assert found["W301"].evidence["total"] < 1e-12
    assert found["W301"].evidence["scheme"] == "orthogonal (gain 4.8)"


def started(activation, initialise, depth, widths=(32,)):
    """Widths repeat along the network."""
    torch.manual_seed(0)
    sides = [32, *(widths[at % len(widths)] for at in range(depth - 1))]
    model = nn.Sequential()
    for inputs, outputs in itertools.pairwise(sides):
        model.extend([nn.Linear(inputs, outputs), activation()])
        initialise(model[-2].weight)
        nn.init.zeros_(model[-2].bias)
    return model.append(nn.Linear(sides[-1], 10))


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


@pytest.mark.parametrize(
    ("activation", "initialise", "looks_like", "scheme"),
    [
        (nn.ReLU, nn.init.xavier_uniform_, "Xavier", "He"),
        (nn.ReLU, lecun, "LeCun", "He"),
        (nn.LeakyReLU, nn.init.xavier_normal_, "Xavier", "He"),
        (nn.Tanh, he, "He", "orthogonal (gain 1.21)"),
        (nn.GELU, he, "He", "orthogonal (gain 1.53)"),
        (nn.Sigmoid, nn.init.xavier_uniform_, "Xavier", "orthogonal (gain 4.8)"),
        (nn.SELU, he, "He", "orthogonal (gain 1)"),
    ],
    ids=["ReLU Xavier", "ReLU LeCun", "leaky Xavier", "tanh He", "GELU He", "sigmoid Xavier", "SELU He"],
)
def test_a_scheme_for_another_activation_is_named_where_the_depth_makes_it_matter(
    activation, initialise, looks_like, scheme
):
    found = findings(started(activation, initialise, 100, widths=(24, 40)), X)
    assert set(found) == {"W303"}
    evidence = found["W303"].evidence
    assert (evidence["looks_like"], evidence["scheme"]) == (looks_like, scheme)
    assert evidence["layers"] == 99
    assert not 1e-3 < evidence["signal"] < 70 or not 1e-3 < evidence["gradient"] < 70


def test_schemes_that_give_the_same_are_all_named():
    found = findings(started(nn.ReLU, nn.init.xavier_normal_, 50), X)
    assert found["W303"].evidence["looks_like"] == "Xavier / LeCun / orthogonal"
    assert found["W303"].evidence["ratio"] == pytest.approx(2**0.5, rel=0.02)
    assert found["W303"].evidence["gradient"] == pytest.approx(2**-24.0, rel=0.5)


def test_where_a_mismatch_costs_little_nothing_is_said():
    assert findings(started(nn.ReLU, nn.init.xavier_normal_, 10), X) == {}
    assert findings(started(nn.Tanh, he, 50), X) == {}  # as well as under Xavier: 84 % of digits


def test_weights_of_no_scheme_are_still_said_to_be_off():
    assert set(findings(scaled(mlp(nn.ReLU, depth=40), 0.8), X)) == {"W301"}


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(8, 32, num_layers=3, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.recurrent(x.reshape(-1, 4, 8))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_as_torch_starts_them_get_no_finding(kind):
    torch.manual_seed(0)
    assert findings(Recurrent(kind), X) == {}


def test_a_scheme_between_normalisations_or_past_skip_connections_is_free():
    layers = [layer for _ in range(60) for layer in (nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU())]
    held = nn.Sequential(*layers, nn.Linear(32, 10))

    class Carried(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(60))

        def forward(self, x):
            for block in self.blocks:
                x = x + F.relu(block(x)) / 60
            return x

    for model in (held, Carried()):
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter)
        assert findings(model, X) == {}


def test_before_normalisations_the_scale_is_free():
    layers = [layer for _ in range(10) for layer in (nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight *= 8
    assert findings(model, X) == {}


def test_a_small_head_is_nobodys_fault():
    model = mlp(nn.ReLU, depth=4)
    with torch.no_grad():
        model[-1].weight *= 1e-5
    assert findings(model, X) == {}


def test_a_skip_connection_carries_the_signal_past_small_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(32, 32), nn.Linear(32, 2)
            self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(20))
            for block in self.blocks:
                nn.init.normal_(block.weight, 0, 1e-4)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + F.relu(block(x))
            return self.head(x)

    assert findings(Net(), X) == {}


@pytest.mark.parametrize(
    ("activation", "initialise"),
    [
        (nn.Tanh, lambda weight: nn.init.xavier_normal_(weight, gain=5 / 3)),
        (nn.Tanh, nn.init.xavier_uniform_),
        (nn.GELU, nn.init.kaiming_normal_),
        (nn.SELU, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="linear")),
    ],
    ids=["tanh 5/3", "tanh Xavier", "GELU He", "SELU LeCun"],
)
def test_recommended_gains_of_other_tools_are_sound_over_twenty_layers(activation, initialise):
    torch.manual_seed(0)
    model = mlp(activation, depth=20)
    for layer in model:
        if isinstance(layer, nn.Linear):
            initialise(layer.weight)
    assert findings(model, X) == {}


def test_constant_weights_are_an_error_where_no_layer_can_tell_the_units_apart():
    model = mlp(nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
    found = findings(model, X)["W302"]
    assert found.severity is Severity.ERROR
    assert found.evidence["same"] == found.evidence["units"]
    assert found.evidence["affected"] == 4


def test_zero_weights_everywhere_are_symmetric():
    model = mlp(nn.Tanh)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert findings(model, X)["W302"].severity is Severity.ERROR


def test_some_units_alike_are_a_warning():
    model = mlp(nn.ReLU)
    with torch.no_grad():
        model[2].weight[5:9] = model[2].weight[4]
    found = findings(model, X)["W302"]
    assert (found.severity, found.site.path) == (Severity.WARNING, "2.weight")
    assert (found.evidence["same"], found.evidence["units"]) == (5, 32)


def test_a_zero_head_a_zero_branch_and_pruned_units_start_like_this_on_purpose():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.end = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 4)
            nn.init.zeros_(self.end.weight)
            nn.init.zeros_(self.head.weight)
            with torch.no_grad():
                self.inner.weight[3:9] = 0

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.end(F.relu(self.inner(x))))

    assert findings(Net(), X) == {}


def test_norms_embeddings_and_biases_may_be_constant():
    model = nn.Sequential(nn.Embedding(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[2].bias)
    assert findings(model, torch.arange(6).reshape(2, 3)) == {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("path", ["0.weight", "2.bias"])
def test_weights_that_are_not_finite_are_an_error(value, path):
    model = mlp(nn.ReLU)
    with torch.no_grad():
        model.get_parameter(path).view(-1)[3] = value
    found = findings(model, X)
    assert set(found) == {"W304"}
    assert (found["W304"].severity, found["W304"].site.path) == (Severity.ERROR, path)
    assert found["W304"].evidence["count"] == 1


def test_a_running_statistic_that_is_not_finite_is_found():
    model = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model[1].running_var[0] = torch.nan
    assert findings(model, X)["W304"].site.path == "1.running_var"


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = mlp(nn.ReLU)
    target = (X @ torch.randn(32, 10)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(X), target).backward()
        optimizer.step()
    return model


def test_weights_that_look_trained_are_a_remark_before_they_are_lost(trained):
    found = findings(trained, X)["W301"]
    assert (found.severity, found.evidence["likely"]) == (Severity.INFO, "trained")
    trained = copy.deepcopy(trained)
    with pytest.warns(TrainedWeightsWarning, match="look trained"):
        report = init_(trained, X)
    assert report.verdict.value == "pass"
    assert [finding.evidence.get("likely") for finding in report.findings] == ["trained"]
    assert findings(trained, X) == {}


def test_a_warning_that_is_made_an_error_comes_before_anything_is_overwritten(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    with pytest.raises(TrainedWeightsWarning):
        init_(trained, X)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_nothing_warns_where_trained_weights_are_kept_or_only_looked_at(trained):
    plan_init(trained, X)
    init_(copy.deepcopy(trained), X, skip="*.weight")
    compare_init(trained, X, loss=lambda output: output.square().mean(), methods=["he"], steps=2, seeds=1)


@pytest.mark.parametrize("name", networks.SOUND)
def test_sound_networks_get_no_finding_before_or_after(name):
    make, batch = networks.SOUND[name]
    for seed in range(4):
        torch.manual_seed(seed)
        model, x = make(), batch()
        assert plan_init(model, x).findings == ()
        assert init_(model, x, seed=seed).findings == ()


@pytest.mark.parametrize("name", networks.ILL)
def test_ill_networks_are_recognised_by_their_weights_and_cured(name):
    make, batch, _ = networks.ILL[name]
    for seed in range(4):
        torch.manual_seed(seed)
        model, x = make(), batch()
        assert [finding.code for finding in plan_init(model, x).findings] == ["W301"]
        assert init_(model, x, seed=seed).findings == ()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus])
def test_torchs_default_is_sound_in_shallow_networks(activation):
    for seed in range(10):
        torch.manual_seed(seed)
        assert findings(mlp(activation, depth=4), X) == {}


def test_every_finding_fills_its_sentences():
    torch.manual_seed(0)
    broken = mlp(nn.ReLU)
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
        broken[2].weight[:] = 0.1
        broken[4].weight[:] = 0.1
    reports = [
        plan_init(broken, X),
        plan_init(scaled(mlp(nn.ReLU, 20), 5), X),
        init_(mlp(nn.ReLU, 80, 65), torch.randn(64, 65)),
        plan_init(started(nn.ReLU, nn.init.xavier_uniform_, 50), X),
    ]
    found = [finding for report in reports for finding in report.findings if finding.code.startswith("W")]
    assert {finding.code for finding in found} == {rule.code for rule in RULES}
    for lang in words.LANGUAGES:
        for finding in found:
            said = words.describe(finding, lang)
            assert "–" not in said.text + said.why + said.remedy


@pytest.mark.parametrize("start", [nn.init.uniform_, lambda p: nn.init.normal_(p, 0.0, 3.0)])
def test_weights_too_large_are_found_though_biases_were_drawn_alike(start):
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(10) for layer in (nn.Linear(32, 32), nn.ReLU())], nn.Linear(32, 3))
    for parameter in model.parameters():
        start(parameter)
    (finding,) = plan_init(model).findings
    assert finding.code == "W301"
    assert "likely" not in finding.evidence


@pytest.mark.parametrize(("activation", "depth"), [(nn.ELU, 70), (nn.Mish, 70), (nn.SELU, 40), (nn.CELU, 100)])
def test_a_deep_tailored_start_is_sound_by_its_own_rules(activation, depth):
    x = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))
    layers = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), activation())]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    assert not {"W301", "W303"} & {finding.code for finding in init_(model, x, method="tailored").findings}
    assert not plan_init(model).findings
    for layer in model[:-1:2]:
        nn.init.zeros_(layer.bias)  # without them the same weights are too small
    if activation is not nn.Mish:
        assert {"W301", "W303"} & {finding.code for finding in plan_init(model).findings}
