"""What is planned for which weight, and what stays as it is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals import Case
from gradvitals.vocabulary import InputError, UsageError
from gradvitals.weights import plan_init


def plan(model, *inputs, **options):
    return {row["path"]: row for row in plan_init(model, *inputs, **options).table("plan").records()}


def mlp(activation, depth=3, width=16, *, bias=True):
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width, bias=bias), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 4, bias=bias))


X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def test_columns_are_the_published_ones():
    table = plan_init(mlp(nn.ReLU), X).table("plan")
    expected = "path kind shape fan_in fan_out activation scheme std_before std_after bias reason"
    assert table.columns == (*expected.split(), "fitted", "output_std", "output_mean")


def test_relu_gets_he_and_the_head_lecun():
    rows = plan(mlp(nn.ReLU), X)
    assert [row["scheme"] for row in rows.values()] == ["he normal", "he normal", "lecun normal"]
    assert rows["2.weight"]["std_after"] == pytest.approx(math.sqrt(2 / 16))
    assert rows["2.weight"]["activation"] == "relu"
    assert rows["4.weight"]["std_after"] == pytest.approx(1 / 4)
    assert {row["bias"] for row in rows.values()} == {"zero"}


def test_leaky_relu_counts_its_slope():
    rows = plan(mlp(lambda: nn.LeakyReLU(0.5)), X)
    assert rows["2.weight"]["std_after"] == pytest.approx(math.sqrt(2 / (1.25 * 16)))


@pytest.mark.parametrize(("activation", "gain"), [(nn.GELU, 1.5335), (nn.SiLU, 1.6765), (nn.ELU, 1.2452)])
def test_smooth_activations_get_their_own_gain(activation, gain):
    row = plan(mlp(activation), X)["2.weight"]
    assert row["scheme"] == "orthogonal"
    assert row["std_after"] == pytest.approx(gain / 4, rel=1e-4)


def test_behind_a_sigmoid_the_bias_takes_the_mean_away_and_the_first_layer_sees_the_data():
    rows = plan(mlp(nn.Sigmoid), X)
    assert [row["bias"] for row in rows.values()] == ["zero", "centred", "centred"]
    assert rows["0.weight"]["std_after"] == pytest.approx(1 / 4)
    assert rows["2.weight"]["std_after"] == pytest.approx(4.801 / 4, rel=1e-3)


def test_a_sigmoid_without_biases_is_centred_by_its_rows():
    assert plan(mlp(nn.Sigmoid, bias=False), X)["2.weight"]["bias"] == "rows"


def test_functional_activations_are_seen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.third(torch.sigmoid(self.second(F.relu(self.first(x)).reshape(-1, 16))))

    rows = plan(Net(), X)
    assert [row["activation"] for row in rows.values()] == ["relu", "sigmoid", ""]
    assert rows["third.weight"]["reason"] == "centred"


def test_dropout_and_flattening_are_looked_through():
    model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(), nn.Flatten(), nn.Sigmoid(), nn.Dropout(), nn.Linear(16, 2))
    rows = plan(model, X)
    assert rows["0.weight"]["activation"] == "sigmoid"
    assert rows["5.weight"]["bias"] == "centred"


def test_max_pooling_hides_the_mean():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    assert plan(model, torch.randn(2, 1, 6, 6))["4.weight"]["bias"] == "zero"


def test_before_a_normalisation_the_plain_scale_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    rows = plan(model, torch.randn(4, 3, 6, 6))
    assert (rows["0.weight"]["scheme"], rows["0.weight"]["reason"]) == ("lecun normal", "normalised")
    assert (rows["1.weight"]["scheme"], rows["1.weight"]["bias"]) == ("ones", "zero")
    assert rows["1.running_mean"]["reason"] == "buffer"


def test_recurrent_layers_are_planned_gate_by_gate():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0])

    rows = plan(Net(), torch.randn(2, 3, 5))
    assert (rows["cell.weight_ih_l0"]["scheme"], rows["cell.weight_ih_l0"]["fan_out"]) == ("xavier normal", 7)
    assert (rows["cell.weight_hh_l0"]["scheme"], rows["cell.weight_hh_l0"]["fan_in"]) == ("orthogonal", 7)
    assert rows["cell.weight_ih_l0"]["std_after"] == pytest.approx(math.sqrt(2 / 12))
    assert (rows["cell.weight_ih_l0"]["bias"], rows["cell.weight_hh_l0"]["bias"]) == ("forget", "zero")


def test_attention_counts_query_key_and_value_each_on_its_own():
    rows = plan(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 3, 16))
    assert rows["self_attn.in_proj_weight"]["std_after"] == pytest.approx(math.sqrt(2 / 32))
    assert rows["self_attn.out_proj.weight"]["reason"] == "attention"
    assert rows["linear1.weight"]["scheme"] == "he normal"
    assert rows["linear2.weight"]["reason"] == "normalised"


class Tied(nn.Module):
    def __init__(self, *, tied=True):
        super().__init__()
        self.tokens, self.body = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        return self.head(F.relu(self.body(self.tokens(ids))))


IDS = torch.arange(12).reshape(3, 4)


def test_tied_weights_are_planned_once_for_the_head():
    rows = plan(Tied(), IDS)
    assert set(rows) == {"tokens.weight", "body.weight"}
    assert rows["tokens.weight"]["std_after"] == pytest.approx(1 / 4)


def test_an_embedding_alone_starts_at_one():
    assert plan(Tied(tied=False), IDS)["tokens.weight"]["std_after"] == 1.0


def test_residual_branches_without_normalisation_share_the_variance():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(16, 16), nn.Linear(16, 2)
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + F.relu(block(x))
            return self.head(x)

    rows = plan(Net(), X)
    assert rows["blocks.1.weight"]["std_after"] == pytest.approx(math.sqrt(2 / 16) / 2)
    assert rows["blocks.1.weight"]["reason"] == "residual"


def test_weights_used_without_a_layer_are_planned_where_their_units_can_be_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(2, 24))
            self.scale = nn.Parameter(torch.ones(24))

        def forward(self, x):
            return F.linear(F.relu(x @ self.first) * self.scale, self.second)

    rows = plan(Net(), X)
    assert (rows["first"]["fan_in"], rows["first"]["scheme"]) == (16, "he normal")
    assert rows["second"]["fan_in"] == 24
    assert rows["scale"]["reason"] == "kind-unknown"


def test_a_transposed_linear_of_hugging_face_is_known_by_its_shape():
    class Conv1D(nn.Module):
        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    rows = plan(nn.Sequential(Conv1D(24, 16), nn.GELU(), nn.Linear(24, 2)), X)
    assert (rows["0.weight"]["fan_in"], rows["0.weight"]["fan_out"]) == (16, 24)


def test_frozen_parametrised_and_unknown_parameters_stay_and_say_why():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            return x @ self.weight

    frozen = nn.Linear(16, 16)
    frozen.requires_grad_(requires_grad=False)
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
    rows = plan(nn.Sequential(frozen, nn.ReLU(), parametrised, nn.ReLU(), Odd(), nn.PReLU(), nn.Linear(16, 2)), X)
    reasons = {path: row["reason"] for path, row in rows.items() if row["scheme"] == "untouched"}
    assert reasons == {
        "0.weight": "frozen",
        "0.bias": "frozen",
        "2.bias": "parametrised",
        "2.parametrizations.weight.original0": "parametrised",
        "2.parametrizations.weight.original1": "parametrised",
        "4.weight": "kind-unknown",
        "5.weight": "kind-unknown",
    }
    assert next(iter(rows)) == "6.weight"


@pytest.mark.parametrize(
    ("options", "filled"),
    [
        ({"only": "0"}, {"0.weight"}),
        ({"only": ["0", "4.*"]}, {"0.weight", "4.weight"}),
        ({"skip": "0"}, {"2.weight", "4.weight"}),
        ({"only": "?", "skip": "2.weight"}, {"0.weight", "4.weight"}),
    ],
)
def test_only_and_skip_choose_by_pattern(options, filled):
    rows = plan(mlp(nn.ReLU), X, **options)
    assert {path for path, row in rows.items() if row["scheme"] != "untouched"} == filled
    assert {row["reason"] for path, row in rows.items() if path not in filled} == {"left-out"}


def test_a_skipped_bias_is_not_set():
    assert plan(mlp(nn.ReLU), X, skip="*.bias")["0.weight"]["bias"] is None


@pytest.mark.parametrize(
    ("method", "std"),
    [("lecun", 1 / 4), ("xavier", math.sqrt(2 / 32)), ("he", math.sqrt(2 / 16)), ("orthogonal", 1 / 4)],
)
def test_a_named_method_is_the_papers(method, std):
    row = plan(mlp(nn.Sigmoid), X, method=method)["2.weight"]
    assert row["std_after"] == pytest.approx(std)
    assert (row["bias"], row["reason"]) == ("zero", "named")


def test_named_he_counts_the_slope_of_leaky_relu():
    assert plan(mlp(lambda: nn.LeakyReLU(0.5)), X, method="he")["2.weight"]["std_after"] == pytest.approx(
        math.sqrt(2 / (1.25 * 16))
    )


def test_without_inputs_the_order_of_the_modules_is_assumed_and_said():
    with_inputs, without = plan_init(mlp(nn.Sigmoid), X), plan_init(mlp(nn.Sigmoid))
    assert (with_inputs.settings["order"], without.settings["order"]) == ("dataflow", "modules")
    keep = ("path", "scheme", "std_after", "bias", "reason")
    assert [with_inputs.table("plan").column(key) for key in keep] == [
        without.table("plan").column(key) for key in keep
    ]


def test_planning_changes_nothing():
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    plan_init(model, X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_case_is_taken_as_well():
    assert plan_init(Case(mlp(nn.ReLU), (X,), name="patient")).subject == "patient"


def test_a_misspelt_keyword_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'method'"):
        plan_init(mlp(nn.ReLU), X, metod="he")


@pytest.mark.parametrize(("options", "near"), [({"method": "ha"}, "he"), ({"method": "xavir"}, "xavier"),
                                               ({"distribution": "gaussian"}, "normal")])  # fmt: skip
def test_an_unknown_method_or_distribution_is_refused_with_the_known_ones(options, near):
    with pytest.raises(UsageError, match=near):
        plan_init(mlp(nn.ReLU), X, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [(abs, "there are no weights to be seen"), (nn.Sequential(nn.ReLU()), "the model has no parameters")],
    ids=["a function", "no parameters"],
)
def test_what_has_no_weights_is_refused(model, message):
    with pytest.raises(InputError, match=message):
        plan_init(model, X)


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(0, 16), "the batch is empty"), (torch.full((2, 16), torch.nan), "an input is not finite")],
)
def test_bad_inputs_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        plan_init(mlp(nn.ReLU), x)


def test_progress_is_told():
    seen = []
    plan_init(mlp(nn.ReLU), X, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
