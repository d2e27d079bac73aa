"""The check leaves no trace, whether it succeeds, fails, or is interrupted."""

from __future__ import annotations

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.vocabulary.errors import ModelError


class Restless(nn.Module):
    """A network with everything that a forward pass may change, which raises at a call of one's choice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.first.weight  # tied
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0
        self.raise_at, self.error = None, None

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        if self.calls == self.raise_at:
            raise self.error
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: S311 - every global generator is drawn from
        return self.head(self.frozen(self.dropout(self.norm(torch.tanh(self.first(x)))))) * noise


class State:
    """All that must be as before, as objects and as values."""

    def __init__(self, model):
        self.model = model
        self.tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
        self.gradients = {
            name: (p.grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()
        }
        self.requires = {name: p.requires_grad for name, p in model.named_parameters()}
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.hooks = self._hooks()
        self.random = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
        self.surroundings = (torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr())
        self.plain = {name: value for name, value in vars(model).items() if not name.startswith("_")}

    def _hooks(self):
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        modules = [len(getattr(module, kind)) for module in self.model.modules() for kind in kinds]
        return modules + [len(p._backward_hooks or ()) for p in self.model.parameters()]

    def assert_kept(self):
        now = State(self.model)
        assert now.tensors.keys() == self.tensors.keys()
        for name, (tensor, values) in self.tensors.items():
            assert now.tensors[name][0] is tensor, name
            assert torch.equal(tensor, values), name
        for name, (gradient, values) in self.gradients.items():
            found = now.gradients[name][0]
            assert found is gradient, name
            assert gradient is None or torch.equal(found, values), name
        assert now.requires == self.requires
        assert now.modes == self.modes
        assert now.hooks == self.hooks
        assert torch.equal(now.random[0], self.random[0])
        assert (now.random[1] == self.random[1]).all()
        assert now.random[2] == self.random[2]
        assert now.surroundings == self.surroundings
        assert now.plain == self.plain


@pytest.fixture
def restless():
    """The model with some gradients there and some not, modes mixed, a hook of the user's own; and an input."""
    torch.manual_seed(0)
    model, x = Restless(), torch.randn(5, 4)
    model(x).sum().backward()
    model.norm.bias.grad = None
    model.frozen.eval()
    model.head.register_forward_hook(lambda *_: None)
    return model, x


def test_after_success_everything_is_as_before(restless):
    model, x = restless
    state, x_before = State(model), x.clone()
    report = gv.check(model, x, loss=lambda out: out.square().mean())
    assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}
    state.assert_kept()
    assert torch.equal(x, x_before)
    assert x.grad is None


def test_gradients_that_were_none_stay_none():
    model, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    gv.check(model, x)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None


def test_gradients_that_were_there_stay_the_same_object_with_the_same_values():
    model, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    model(x).sum().backward()
    state, gradient, values = State(model), x.grad, x.grad.clone()
    gv.check(model, x)
    state.assert_kept()
    assert x.grad is gradient
    assert torch.equal(gradient, values)


@pytest.mark.parametrize("at", [1, 2, 4, 7, 20, 40])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
def test_after_an_interrupt_in_the_middle_everything_is_as_before(restless, at, error):
    model, x = restless
    model.calls, model.raise_at, model.error = 0, at, error
    state = State(model)
    with pytest.raises(type(error)):
        gv.check(model, x)
    state.assert_kept()


@pytest.mark.parametrize("at", [1, 9])  # the calls between lie beside the point, where a function may have no value
def test_after_a_failing_forward_everything_is_as_before(restless, at):
    model, x = restless
    model.calls, model.raise_at, model.error = 0, at, RuntimeError("broken")
    state = State(model)
    with pytest.raises(ModelError):
        gv.check(model, x)
    state.assert_kept()


def test_after_a_single_failure_beside_the_point_everything_is_as_before(restless):
    model, x = restless
    model.calls, model.raise_at, model.error = 0, 2, RuntimeError("broken")
    state = State(model)
    assert gv.check(model, x).verdict is not Verdict.FAIL
    state.assert_kept()


def test_after_a_failing_loss_everything_is_as_before(restless):
    model, x = restless
    state = State(model)

    def loss(out):
        raise ValueError("broken")

    with pytest.raises(ModelError, match="the loss raised"):
        gv.check(model, x, loss=loss)
    state.assert_kept()


def test_after_a_loss_that_is_no_scalar_everything_is_as_before(restless):
    model, x = restless
    state = State(model)
    with pytest.raises(gv.InputError):
        gv.check(model, x, loss=lambda out: out)
    state.assert_kept()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_after_a_failing_backward_everything_is_as_before(restless, error):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dout):
            raise error

    model, x = restless
    state = State(model)
    with pytest.raises((ModelError, KeyboardInterrupt)):
        gv.check(model, x, loss=lambda out: Broken.apply(out).sum())
    state.assert_kept()


def test_a_model_inside_a_function_is_restored_as_well(restless):
    model, x = restless
    state = State(model)
    gv.check(lambda x: model(x).square().mean(), x)
    state.assert_kept()


def test_surroundings_that_the_user_set_stay_as_they_are():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            gv.check(nn.Linear(3, 2).float(), torch.randn(4, 3, dtype=torch.float32))
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_training_goes_on_exactly_as_without_the_check():
    def train(*, checked):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        for step in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            if checked and step == 2:
                gv.check(model, x, loss=lambda out: nn.functional.cross_entropy(out, y))
            loss.backward()  # through the graph from before the check
            optimizer.step()
        return model.state_dict()

    plain, checked = train(checked=False), train(checked=True)
    assert all(torch.equal(plain[name], checked[name]) for name in plain)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_mode_at_the_call_is_the_mode_that_is_checked(mode):
    modes = set()

    class Watch(nn.Linear):
        def forward(self, x):
            modes.add(self.training)
            return super().forward(x)

    model = Watch(3, 2).train(mode)
    gv.check(model, torch.randn(4, 3))
    assert modes == {mode}
    assert model.training is mode


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)), (8, 4), id="dropout"),
        pytest.param(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()), (8, 4), id="batch norm"),
        pytest.param(lambda: nn.LSTM(4, 5, batch_first=True), (2, 3, 4), id="LSTM"),
        pytest.param(lambda: nn.GRU(4, 5, num_layers=2, dropout=0.2), (3, 2, 4), id="GRU"),
        pytest.param(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 3, 4), id="transformer"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sound_models_in_training_mode_pass_and_are_left_alone(make, shape, dtype):
    torch.manual_seed(0)
    model, x = make().to(dtype).train(), torch.randn(shape, dtype=dtype)
    state = State(model)
    report = gv.check(model, x)
    assert report.verdict is Verdict.PASS, str(report)
    state.assert_kept()


def test_numpy_inputs_settings_and_generators_are_as_before():
    rng = np.random.default_rng(0)
    parameters = {"W": rng.normal(size=(3, 2)), "b": [1.0, 2.0]}
    settings = {"mode": "train", "mean": np.zeros(3)}
    x = rng.normal(size=(5, 3))
    before = copy.deepcopy((x, parameters, settings))
    randomness = (np.random.get_state()[1].copy(), random.getstate())

    def cost(x, p, settings):
        x -= x.mean(axis=0) * 0
        settings["mean"] += 1  # as batch norm in cs231n keeps its running mean
        settings["cache"] = x
        p["W"] *= 1.0
        np.random.rand(3)
        random.random()  # noqa: S311
        return float(np.sum((x @ p["W"] + np.array(p["b"])) ** 2))

    def gradient(x, p, settings):
        out = x @ p["W"] + np.array(p["b"])
        return {"dW": 2 * x.T @ out}

    report = gv.check(cost, x, parameters, settings, grad=gradient)
    assert report.verdict is Verdict.PASS
    assert np.array_equal(x, before[0])
    assert np.array_equal(parameters["W"], before[1]["W"])
    assert parameters["b"] == before[1]["b"]
    assert settings.keys() == before[2].keys()
    assert np.array_equal(settings["mean"], before[2]["mean"])
    assert (np.random.get_state()[1] == randomness[0]).all()
    assert random.getstate() == randomness[1]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("at", [1, 3, 50])
def test_numpy_generators_are_as_before_after_a_failure(error, at):
    calls = []

    def cost(x):
        calls.append(None)
        np.random.rand(3)
        if len(calls) == at:
            raise error
        return float((x**2).sum())

    x = np.arange(3.0)
    randomness, floating = np.random.get_state()[1].copy(), np.geterr()
    with contextlib.suppress(ModelError, KeyboardInterrupt):  # a step that raises may also be passed over
        gv.check(cost, x, grad=lambda x: 2 * x)
    assert (np.random.get_state()[1] == randomness).all()
    assert np.geterr() == floating
    assert np.array_equal(x, np.arange(3.0))


class _Interrupted(torch.autograd.Function):
    """Passes everything on; its backward is interrupted at the third call, when the parameters stand elsewhere."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, dout):
        _Interrupted.calls += 1
        if _Interrupted.calls == 3:
            raise KeyboardInterrupt
        return dout


@pytest.mark.parametrize("training", [True, False])
def test_an_interrupt_in_a_backward_pass_beside_the_point_leaves_the_weights_as_they_were(training):
    torch.manual_seed(0)
    _Interrupted.calls = 0

    class Net(torch.nn.Sequential):
        def forward(self, x):
            return _Interrupted.apply(super().forward(x))

    model = Net(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).train(training)
    gradient = model[0].weight.grad = torch.ones(4, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        gv.check(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model[0].weight.grad is gradient
    assert torch.equal(random_state, torch.get_rng_state())
    assert model.training is training


class _Unruly(nn.Module):
    """Owns a generator, keeps a hidden state and a tensor in a tuple, and has a hook that steps an optimiser."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.generator = torch.Generator().manual_seed(7)
        self.hidden = None
        self.pair = (torch.zeros(3), 0)
        self.fails_with = None

    def forward(self, x):
        out = self.linear(x) * torch.rand(3, generator=self.generator)
        self.hidden = out.detach()
        self.pair[0].add_(1)
        if self.fails_with is not None:
            raise self.fails_with
        return out


@pytest.mark.parametrize(
    "error", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=["none", "error", "interrupt"]
)
@pytest.mark.parametrize("keywords", [{}, {"order": 2}, {"precision": "float64"}, {"outputs": 0}], ids=str)
def test_generators_states_and_contexts_of_a_model_are_as_before(error, keywords):
    torch.manual_seed(0)
    model, x = _Unruly(), torch.randn(4, 3)
    position, hidden, pair = model.generator.get_state(), model.hidden, model.pair
    model.fails_with = error
    state = State(model)
    with contextlib.suppress(ModelError, KeyboardInterrupt):
        gv.check(model, x, **keywords)
    state.assert_kept()
    assert torch.equal(model.generator.get_state(), position)
    assert model.hidden is hidden
    assert model.pair is pair
    assert torch.equal(pair[0], torch.zeros(3))
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


@pytest.mark.parametrize(
    "error", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=["none", "error", "interrupt"]
)
def test_modules_named_in_wrt_are_as_before(error):
    torch.manual_seed(0)
    first, second, x = _Unruly(), nn.Linear(3, 2), torch.randn(4, 3)
    second(torch.randn(1, 3)).sum().backward()
    first.fails_with = error
    states = [State(first), State(second)]
    with contextlib.suppress(ModelError, KeyboardInterrupt):
        gv.check(lambda x: second(first(x)), x, wrt={"first": first, "second": second})
    for state in states:
        state.assert_kept()


def test_under_autocast_nothing_cast_from_other_values_remains():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(x)
        gv.check(model, x)
        assert torch.equal(model(x), before)
        model(x).sum().backward()
    assert model.weight.grad is not None
