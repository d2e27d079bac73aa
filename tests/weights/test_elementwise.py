"""What a model does between its layers is known by what it does, however it is written."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.between import functions_between
from gradvitals.maths.activations import activation
from gradvitals.maths.tabulated import from_table
from gradvitals.weights import init_, plan_init

#: Products that no model here comes near.
MANY = 1000

X, NEW = (torch.randn(256, 48, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))


class Written(nn.Module):
    """Layers in a list, and a function of one's own behind each."""

    def __init__(self, function, depth=20, *, dropout=0.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(depth))
        self.head = nn.Linear(48, 10)
        self.function, self.dropout = function, dropout

    def forward(self, x):
        for layer in self.layers:
            x = F.dropout(self.function(layer(x)), self.dropout, self.training)
        return self.head(x)


def own_gelu(x):
    return 0.5 * x * (1 + torch.tanh(0.7978846 * (x + 0.044715 * x**3)))


FUNCTIONS = {
    "sine": torch.sin,
    "swish": lambda x: x * torch.sigmoid(x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "gelu": own_gelu,
    "squared relu": lambda x: F.relu(x) ** 2,
    "softsign": lambda x: x / (1 + x.abs()),
    "leaky by where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "hardtanh by clamp": lambda x: x.clamp(-1, 1),
    "absolute": torch.abs,
}


def spreads(model):
    outputs = []
    handles = [layer.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for layer in model.layers]
    y = model(NEW)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(y, outputs, torch.randn(y.shape, generator=torch.Generator().manual_seed(3)))
    return [max(s) / min(s) for s in ([t.std().item() for t in tensors] for tensors in (outputs, gradients))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_between_layers_keep_signal_and_gradient_level(name):
    torch.manual_seed(0)
    model = Written(FUNCTIONS[name])
    report = init_(model, X)
    assert report.settings["method"] == "tailored"
    forward, backward = spreads(model)
    assert forward <= 1.05
    assert backward <= 2.5


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_function_by_hand_starts_like_the_module(dropout):
    torch.manual_seed(0)
    by_hand = Written(FUNCTIONS["swish"], dropout=dropout)
    by_name = copy.deepcopy(by_hand)
    by_name.function = F.silu
    for model in (by_hand, by_name):
        init_(model, X)
    assert all(
        torch.allclose(ours, theirs, atol=1e-5)
        for ours, theirs in zip(by_hand.parameters(), by_name.parameters(), strict=True)
    )


class Branching(nn.Module):
    """A product that another layer's output comes into, a sum, a normalisation, a mean over units: none is alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(6))
        self.norm, self.head = nn.BatchNorm1d(48), nn.Linear(48, 10)

    def forward(self, x):
        a, b, c, d, e, f = self.layers
        x = torch.sigmoid(a(x)) * b(x)
        x = x + torch.sin(c(x))
        x = torch.relu(self.norm(d(x)))
        x = e(x)
        x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
        return self.head(f(x).softmax(-1))


def test_what_is_not_a_function_of_one_output_alone_is_not_taken_for_one():
    model = Branching()
    state = copy.deepcopy(model.state_dict())
    paths = [path for path, _ in model.named_parameters() if path.endswith("weight")]
    assert functions_between(Case(model, (X,)), paths, most=MANY) == ()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def test_a_model_of_modules_only_is_not_run_for_it():
    model = nn.Sequential(nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 10))
    assert functions_between(Case(model, (X,)), ["0.weight", "2.weight"], most=MANY) is None
    assert plan_init(model, X).cost["forwards"] == 1
    assert plan_init(Written(torch.sin), X).cost["forwards"] == 2


class Picky(Written):
    def forward(self, x):
        for layer in self.layers:
            x = self.function(layer(x))
            if x.abs().max() > 5:
                raise ValueError("too large")
        return self.head(x)


def test_a_model_that_raises_on_such_numbers_is_planned_as_it_was_recorded():
    assert functions_between(Case(Picky(own_gelu), (X,)), ["layers.0.weight", "layers.1.weight"], most=MANY) == ()
    assert plan_init(Picky(torch.tanh), X).table("plan").column("activation")[0] == "tanh"


class Reader(Written):
    """What one function gives is read by two layers."""

    def forward(self, x):
        a, b, c, d = self.layers
        x = torch.sin(a(x))
        x = torch.relu(b(x)) + torch.relu(c(x))
        return self.head(torch.sin(d(x)))


def test_an_activation_that_several_layers_read_is_one():
    rows = {row["path"]: row for row in plan_init(Reader(None, 4), X).table("plan").records()}
    assert rows["layers.0.weight"]["activation"] == "elementwise"
    assert [rows[f"layers.{at}.weight"]["activation"] for at in (1, 2)] == ["relu", "relu"]


GRID = np.union1d(np.round(np.sinh(np.linspace(-3, 3, 300)) * 8 / np.sinh(3), 6), np.arange(-8, 8.5, 0.5))


@pytest.mark.parametrize("name", ["gelu", "tanh", "softplus", "mish", "hardtanh", "selu"])
def test_a_table_has_the_name_of_its_function(name):
    assert from_table(GRID, activation(name).value(GRID)).name == name


@pytest.mark.parametrize("name", ["gelu", "tanh", "elu", "hardtanh"])
def test_a_table_without_a_name_gives_values_slopes_and_kinks(name):
    phi = activation(name)
    found = from_table(GRID, 1.7 * phi.value(GRID))
    x = np.linspace(-6, 6, 241) + 0.013
    assert np.allclose(found.value(x), 1.7 * phi.value(x), atol=2e-4)
    assert np.allclose(found.slope(x), 1.7 * phi.slope(x), atol=1e-2)
    assert found.kinks == ((-1.0, 1.0) if name == "hardtanh" else ())


class Settling(nn.Module):
    """A layer that is applied until its outputs stay, which made-up numbers never do."""

    def __init__(self):
        super().__init__()
        self.step, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        settled, last = torch.tanh(self.step(x)), x
        while (settled - last).abs().max() > 1e-3:
            last, settled = settled, torch.tanh(0.1 * self.step(settled))
        return self.head(settled)


def test_a_model_that_waits_for_its_outputs_to_settle_does_not_wait_for_ever():
    model, x = Settling(), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    init_(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.isfinite(model(x)).all()
