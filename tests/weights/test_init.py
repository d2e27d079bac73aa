"""init_ changes the weights as planned, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.vocabulary import InputError, ModelError, Verdict
from gradvitals.weights import init_, plan_init


def deep(activation, depth=20, width=32):
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def everything():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 16),
        nn.Sigmoid(), nn.Linear(16, 3),
    )  # fmt: skip


IMAGES = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
X = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))


def test_the_weights_have_the_planned_spread():
    model = deep(nn.GELU)
    planned = {row["path"]: row["std_after"] for row in plan_init(model, X).table("plan").records()}
    init_(model, X)
    for path, std in planned.items():
        assert model.get_parameter(path).detach().square().mean().sqrt().item() == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Mish])
def test_signal_and_gradient_survive_twenty_layers(activation):
    torch.manual_seed(0)
    report = init_(deep(activation), X)
    assert report.verdict is Verdict.PASS
    rows = [row for row in report.table("after").records() if row["kind"] == "Linear"][:-1]
    for column in ("forward_rms", "gradient_rms"):
        assert 1 / 40 < rows[-1][column] / rows[0][column] < 40


def test_behind_a_sigmoid_the_mean_is_gone():
    torch.manual_seed(0)
    report = init_(deep(nn.Sigmoid), X, method="analytic")
    means = [abs(row["forward_mean"]) for row in report.table("after").records() if row["kind"] == "Linear"]
    assert max(means) < 0.3
    untreated = [abs(row["forward_mean"]) for row in report.table("before").records() if row["kind"] == "Sigmoid"]
    assert min(untreated) > 0.4


def test_before_and_after_are_like_the_probes_layers():
    report = init_(deep(nn.ReLU, depth=4), X)
    assert [table.name for table in report.tables] == ["plan", "before", "after", "balance"]
    assert report.table("before").columns == report.table("after").columns
    assert report.table("after").column("path") == tuple(str(at) for at in range(7))


def test_nothing_but_the_weights_changes():
    model = everything()
    model.eval()
    model[3].train()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    grads = [parameter.grad for parameter in model.parameters()]
    places = [parameter.data_ptr() for parameter in model.parameters()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    init_(model, IMAGES)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), grads, strict=True))
    assert all((grad == 2.0).all() for grad in grads)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert len(model[0]._forward_hooks) == 1


def test_an_optimizer_keeps_working_on_the_same_parameters():
    model = deep(nn.ReLU, depth=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    init_(model, X)
    before = model[0].weight.detach().clone()
    model(X).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


def test_frozen_parametrised_and_left_out_weights_stay():
    model = nn.Sequential(
        nn.Linear(32, 32), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)), nn.ReLU(),
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2),
    )  # fmt: skip
    model[0].requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init_(model, X, skip="4")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"6.weight", "6.bias"}
    assert not model[0].weight.requires_grad


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    torch.manual_seed(0)
    one, two, other = deep(nn.Tanh, 4), deep(nn.Tanh, 4), deep(nn.Tanh, 4)
    init_(one, X, seed=5)
    init_(two, X, seed=5)
    init_(other, X, seed=6)
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[0].weight, one[2].weight)


def test_a_copied_layer_gets_weights_of_its_own():
    """nn.TransformerEncoder deep-copies its layer: all start alike."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    assert torch.equal(model.layers[0].linear1.weight, model.layers[1].linear1.weight)
    init_(model, torch.randn(2, 5, 16))
    assert not torch.equal(model.layers[0].linear1.weight, model.layers[1].linear1.weight)


def test_uniform_weights_are_bounded():
    model = deep(nn.ReLU, depth=3)
    report = init_(model, X, distribution="uniform")
    assert report.table("plan").column("scheme")[0] == "he uniform"
    assert model[0].weight.abs().max().item() <= math.sqrt(6 / 32)


def test_without_inputs_the_weights_are_filled_and_nothing_is_run():
    def explode(*_):
        raise AssertionError

    model = deep(nn.ReLU, depth=3)
    model.register_forward_pre_hook(explode)
    before = model[0].weight.detach().clone()
    report = init_(model)
    assert not torch.equal(before, model[0].weight)
    assert [table.name for table in report.tables] == ["plan"]
    assert report.settings["order"] == "modules"


class BreaksWhenLarge(nn.Module):
    """Runs with the old weights, and raises with the new ones."""

    def __init__(self, error):
        super().__init__()
        self.inner, self.error = nn.Linear(32, 4), error
        nn.init.zeros_(self.inner.weight)

    def forward(self, x):
        if self.inner.weight.abs().sum() > 0:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("no"), ModelError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_when_the_model_raises_with_the_new_weights_the_old_ones_come_back(error, expected):
    model = BreaksWhenLarge(error)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(expected):
        init_(model, X)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_bad_input_leaves_the_weights_as_they_were():
    model = deep(nn.ReLU, depth=3)
    before = model[0].weight.detach().clone()
    with pytest.raises(InputError, match="the batch is empty"):
        init_(model, torch.zeros(0, 32))
    with pytest.raises(InputError, match="not a scalar"):
        init_(model, X, loss=lambda y: y)
    assert torch.equal(before, model[0].weight)


def test_progress_counts_the_parameters():
    seen = []
    init_(deep(nn.ReLU, depth=3), X, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_loss_that_was_given_is_used():
    report = init_(deep(nn.ReLU, depth=3), X, loss=lambda y: F.cross_entropy(y, torch.zeros(64, dtype=torch.long)))
    assert report.settings["objective"] == "loss"


def test_a_nan_weight_is_repaired():
    model = deep(nn.ReLU, depth=3)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    assert [finding.code for finding in plan_init(model, X).findings] == ["W304"]
    assert init_(model, X).verdict is Verdict.PASS


def test_report_travels_as_json_and_shows_as_text():
    report = init_(everything(), IMAGES)
    assert type(report).from_json(report.to_json()).table("plan") == report.table("plan")
    assert "1.running_mean" in report.to_json()


def test_parameters_on_a_compiled_wrapper_are_reached():
    model = deep(nn.ReLU, depth=3)
    wrapped = torch.compile(model, backend="eager")
    before = model[0].weight.detach().clone()
    init_(wrapped, X)
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("layer", [nn.LSTM(5, 7, 2, bidirectional=True), nn.LSTMCell(5, 7), nn.LSTM(5, 8, proj_size=4)])
def test_the_forget_gate_of_an_lstm_starts_open(layer):
    init_(layer, seed=1)
    biases = {name: values.detach() for name, values in layer.named_parameters() if name.startswith("bias")}
    for name, values in biases.items():
        _, forget, *others = values.chunk(4)
        assert bool((forget == (1.0 if "_ih" in name else 0.0)).all())
        assert not torch.cat([values.chunk(4)[0], *others]).any()


@pytest.mark.parametrize("layer", [nn.GRU(5, 7), nn.RNNCell(5, 7), nn.LSTM(5, 7, bias=False)])
def test_other_recurrent_layers_have_no_gate_to_open(layer):
    init_(layer, seed=1)
    assert not any(values.any() for name, values in layer.named_parameters() if name.startswith("bias"))
