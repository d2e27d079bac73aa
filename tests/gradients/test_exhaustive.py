"""Every entry of every tensor: the bulk measurement agrees with autograd where that is right, and finds what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gradvitals as gv
from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.sweep import EntrySweep, exact_displacements
from gradvitals.frameworks.torch.problem import TorchProblem

KINDS = {
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear of tokens": (lambda: nn.Linear(5, 3, bias=False), (2, 3, 5)),
    "linear of few rows": (lambda: nn.Linear(9, 3), (2, 9)),
    "convolution in one dimension": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 8)),
    "convolution": (lambda: nn.Conv2d(2, 4, (3, 2), dilation=(1, 2), padding="same"), (2, 2, 5, 6)),
    "convolution of few pixels": (lambda: nn.Conv2d(4, 3, 3), (1, 4, 4, 4)),
    "convolution in three dimensions": (lambda: nn.Conv3d(2, 2, 2), (1, 2, 3, 3, 3)),
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="reflect"), (2, 4, 5, 5)),
    "depthwise convolution": (lambda: nn.Conv1d(3, 3, 3, groups=3, padding=2, padding_mode="circular"), (2, 3, 6)),
    "convolution without a batch": (lambda: nn.Conv1d(2, 3, 3), (2, 7)),
    "layer norm": (lambda: nn.LayerNorm((2, 4)), (3, 2, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (3, 4)),
    "RMS norm": (lambda: nn.RMSNorm(4), (3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5)),
    "batch norm in training": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "batch norm that is done training": (lambda: nn.BatchNorm2d(4).eval(), (3, 4, 2, 2)),
}


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def squares(y):
    return (y * torch.linspace(0.5, 2.0, y.numel()).reshape(y.shape)).tanh().sum()


def slopes_by(sweep, step=1e-4):
    every = np.arange(sweep.size)
    far = sweep.displacements(step)
    found = sweep.values(np.tile(every, 2), np.concatenate([far, -far]))[:, 0]
    return sweep.entries((found[: sweep.size] - found[sweep.size :]) / (2 * far))


def assert_slopes_are_autograds(model, x):
    """The oracle: autograd, right for torch's own layers; and entry by entry, one point after another."""
    truth = torch.autograd.grad(squares(model(x)), list(model.parameters()))
    with opened(Case(model, (x,), loss=squares), [name for name, _ in model.named_parameters()]) as problem:
        sweeps = problem.sweeps()
        found = {at: values for sweep in sweeps for at, values in slopes_by(sweep).items()}
        problem._batch.reason = "test"
        alone = {at: slopes_by(EntrySweep(problem, at, 1.0))[at] for at in range(len(problem.tensors))}
    assert set(found) == set(range(len(truth)))
    for at, gradient in enumerate(truth):
        expected = gradient.reshape(-1).numpy()
        assert np.allclose(found[at], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        assert np.allclose(alone[at], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", KINDS)
def test_slopes_that_enter_at_a_layers_output_are_those_of_its_entries(name):
    make, shape = KINDS[name]
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    assert_slopes_are_autograds(model, torch.randn(shape))


def test_slopes_of_an_embedding_are_those_of_its_entries():
    assert_slopes_are_autograds(nn.Embedding(7, 3), torch.tensor([[1, 2, 1], [6, 1, 0]]))


class Residual(nn.Module):
    """What the first layer gives goes another way as well: behind the second layer not all is said."""

    def __init__(self):
        super().__init__()
        self.first, self.activation, self.second = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)

    def forward(self, x):
        z = self.first(x)
        return z + self.second(self.activation(z))


CHAINS = {
    "linear, linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)), (4, 6), [True, False]),
    "of few rows": (lambda: nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)), (2, 9), [True, False]),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, (3, 2), 2, dilation=(1, 2))),
        (2, 2, 5, 6),
        [True, False],
    ),
    "norm, linear": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), (2, 3, 4), [True, False]),
    "grouped behind": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 2), nn.ReLU(), nn.Conv1d(4, 4, 2, groups=2)),
        (2, 2, 6),
        [False, False],
    ),
    "in place": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)),
        (5, 4),
        [False, False],
    ),
    "rows taken for units": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 3, 2)), (2, 4, 4), [False, False]),
    "residual": (Residual, (5, 4), [False, False]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_slopes_that_enter_one_layer_farther_are_those_of_the_entries(name):
    make, shape, farther = CHAINS[name]
    model, x = make(), torch.randn(shape)
    assert_slopes_are_autograds(model, x)
    with opened(Case(model, (x,), loss=squares), [name for name, _ in model.named_parameters()]) as problem:
        assert [sweep._ahead is not None for sweep in problem.sweeps()] == farther


def test_displacements_are_exact_in_float32():
    values = torch.empty(100, dtype=torch.float32).uniform_(1.1, 1.9).double().numpy()
    far = exact_displacements(values, 3e-4, 2.0**-24)
    for moved in (values + far, values - far):
        assert np.array_equal(moved.astype(np.float32).astype(np.float64), moved)
    assert np.allclose(far, 3e-4, rtol=1e-3)


def status_of(report):
    table = next(table for table in report.tables if table.name == "tensors")
    return {row[table.columns.index("path")]: row[table.columns.index("status")] for row in table.rows}


def column(report, name):
    table = next(table for table in report.tables if table.name == "tensors")
    return [row[table.columns.index(name)] for row in table.rows]


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class UsedFunctionally(UsedTwice):
    def forward(self, x):
        return nn.functional.linear(self.layer(x).tanh(), self.layer.weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.decode = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, index):
        return self.decode(self.embed(index).tanh())


def hooked():
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda module, inputs, output: output * module.weight.sum())
    return model


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Custom(UsedTwice):
    def forward(self, x):
        return Squared.apply(self.layer(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.rest = nn.Linear(4, 3), nn.LSTM(3, 2, batch_first=True)

    def forward(self, x):
        return self.rest(self.first(x)[None])[0]


NOT_WHAT_THEY_SEEM = {
    "subclass with another forward pass": lambda: Doubling(4, 3),
    "a layer that runs twice": UsedTwice,
    "a weight that is used in a second place": UsedFunctionally,
    "a hook that uses the weight": hooked,
    "a parametrised weight": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "a spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)).eval(),
    "a function without a rule for vmap": Custom,
    "a recurrent layer behind": Recurrent,
    "batch norm in training behind": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)),
    "an activation in place": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)),
}


@pytest.mark.parametrize("name", NOT_WHAT_THEY_SEEM)
def test_layers_that_are_not_what_they_seem_are_right_as_well(name):
    model = NOT_WHAT_THEY_SEEM[name]()
    report = gv.check(model, torch.randn(5, 4), exhaustive=True)
    assert report.verdict.value == "pass", str(report)
    assert set(status_of(report).values()) == {"right"}
    assert max(column(report, "entry_resolution")) < 1e-3


def test_a_tied_weight_is_moved_in_both_places():
    report = gv.check(Tied(), torch.tensor([[1, 2], [5, 1]]), exhaustive=True)
    assert report.verdict.value == "pass", str(report)


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("seed", range(6))
def test_sound_networks_pass_whatever_the_kinks(seed):
    torch.manual_seed(seed)
    report = gv.check(network(), torch.randn(3, 2, 5, 5), exhaustive=True, seed=seed)
    assert report.verdict.value == "pass", str(report)
    assert max(column(report, "entry_resolution")) < 2e-4


@pytest.mark.parametrize("path", ["0.weight", "3.weight", "3.bias", "5.weight"])
def test_a_single_entry_that_is_a_thousandth_off_is_found_and_named(path):
    model = network()
    x = torch.randn(3, 2, 5, 5)
    parameter = dict(model.named_parameters())[path]
    (gradient,) = torch.autograd.grad(model(x).square().sum(), parameter)
    at = int(gradient.abs().flatten().argsort()[-(parameter.numel() // 3 + 1)])
    spoil = torch.ones(parameter.numel())
    spoil[at] = 1.001
    parameter.register_hook(lambda grad: grad * spoil.reshape(grad.shape))
    report = gv.check(model, x, loss=lambda y: y.square().sum(), exhaustive=True)
    assert status_of(report) == {name: "wrong" if name == path else "right" for name in status_of(report)}
    (finding,) = [finding for finding in report.findings if finding.code == "G101"]
    assert finding.site.index == tuple(int(i) for i in np.unravel_index(at, parameter.shape))
    assert (finding.evidence["wrong_count"], finding.evidence["checked_count"]) == (1, parameter.numel())


def test_all_wrong_entries_are_counted_where_a_row_is_wrong():
    model = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 2))
    model[0].weight.register_hook(lambda grad: torch.cat([grad[:3], 1.5 * grad[3:6], grad[6:]]))
    report = gv.check(model, torch.randn(8, 30), exhaustive=True)
    (finding,) = report.findings
    assert (finding.evidence["wrong_count"], finding.evidence["checked_count"]) == (90, 600)


def test_float32_is_measured_in_float64():
    model, x = network().float(), torch.randn(3, 2, 5, 5, dtype=torch.float32)
    report = gv.check(model, x, exhaustive=True)
    assert report.verdict.value == "pass", str(report)
    assert max(column(report, "entry_resolution")) < 1e-2
    model[3].weight.register_hook(lambda grad: torch.cat([grad[:2], 1.05 * grad[2:3], grad[3:]]))
    assert status_of(gv.check(model, x, exhaustive=True))["3.weight"] == "wrong"


def test_float32_is_measured_natively_where_float64_is_impossible():
    constant = torch.randn(5, 5, dtype=torch.float32)
    x = torch.randn(3, 5, dtype=torch.float32)
    report = gv.check(lambda x: torch.from_numpy(x.detach().numpy() * 0) + (x @ constant).tanh(), x, exhaustive=True)
    assert report.verdict.value == "pass", str(report)


def test_numpy_functions_are_measured_entry_by_entry():
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert gv.check(lambda x: np.sum(x**3), x, grad=lambda x: 3 * x**2, exhaustive=True).verdict.value == "pass"

    def wrong(x):
        gradient = 3 * x**2
        gradient[2, 1] *= 1.01
        return gradient

    report = gv.check(lambda x: np.sum(x**3), x, grad=wrong, exhaustive=True)
    assert report.findings[0].site.index == (2, 1)
    assert (report.findings[0].evidence["wrong_count"], report.findings[0].evidence["checked_count"]) == (1, 12)


def test_a_gradient_that_never_comes_is_missed():
    report = gv.check(lambda x, w: (x * w.detach()).sum(), torch.randn(3), torch.randn(3), exhaustive=True)
    assert {finding.code for finding in report.findings} == {"G102"}


def test_what_was_asked_is_in_the_report_and_nothing_is_left_behind():
    model, x = network(), torch.randn(3, 2, 5, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [set(vars(module)) for module in model.modules()]
    report = gv.check(model, x, exhaustive=True)
    assert report.settings["exhaustive"] is True
    assert report.cost["forwards"] > sum(parameter.numel() for parameter in model.parameters()) / 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [set(vars(module)) for module in model.modules()] == attributes


def test_an_interrupt_leaves_nothing_behind():
    model, x = network(), torch.randn(3, 2, 5, 5)
    attributes = [set(vars(module)) for module in model.modules()]
    count = 0

    def interrupted(done, expected):
        nonlocal count
        count += 1
        if done > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gv.check(model, x, exhaustive=True, progress=interrupted)
    assert [set(vars(module)) for module in model.modules()] == attributes


def test_progress_comes_to_its_end():
    seen = []
    gv.check(network(), torch.randn(3, 2, 5, 5), exhaustive=True, progress=lambda *done: seen.append(done))
    assert all(done < expected for done, expected in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_entries_that_share_a_layer_with_frozen_ones_are_measured():
    model = nn.Linear(4, 3)
    model.weight.requires_grad_(requires_grad=False)
    with opened(Case(model, (torch.randn(2, 4),)), ["bias"]) as problem:
        assert isinstance(problem, TorchProblem)
        (sweep,) = problem.sweeps()
        assert sweep.tensors == (0,)
    assert gv.check(model, torch.randn(2, 4), exhaustive=True).verdict.value == "pass"
