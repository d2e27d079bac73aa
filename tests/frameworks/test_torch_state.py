from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.frameworks.torch.state import RandomState, preserved, seed_everything


class Restless(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.embedding = nn.Embedding(5, 3, sparse=True)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("expanded", torch.zeros(1, 3).expand(4, 3))
        self.plain = torch.zeros(2)
        self.history = []
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.history.append(x)
        self.plain += 1
        self.steps = self.steps + 1
        self.cache = x
        return self.norm(self.linear(x)) + self.embedding(torch.tensor([1, 2, 3, 3]))


def everything(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}
    return state, gradients


def disturb(model, x):
    model.eval()
    model.train()
    model.norm.weight.requires_grad_(requires_grad=False)
    model.register_forward_hook(lambda *_: None)
    model(x).sum().backward()
    model.linear.weight.data.mul_(2)
    model.linear.bias.grad = None
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.rand(1), np.random.rand(), random.random()  # noqa: S311


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_as_before_whether_or_not_it_raises(error):
    torch.manual_seed(0)
    model, x = Restless(), torch.randn(4, 3)
    model.norm.eval()
    model(x).sum().backward()
    buffer, gradient, calls = model.steps, model.linear.weight.grad, model.calls
    state, gradients = everything(model)
    history, plain, randomness = list(model.history), model.plain.clone(), torch.get_rng_state()
    following = (np.random.get_state()[1].copy(), random.getstate())
    try:
        with preserved(model):
            disturb(model, x)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    after, gradients_after = everything(model)
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert gradients_after.keys() == gradients.keys()
    assert all(torch.equal(gradients_after[name], gradients[name]) for name in gradients)
    assert model.steps is buffer
    assert model.linear.weight.grad is gradient
    assert model.training
    assert not model.norm.training
    assert model.norm.weight.requires_grad
    assert not model._forward_hooks
    assert model.calls == calls
    assert len(model.history) == len(history)
    assert torch.equal(model.plain, plain)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert (np.random.get_state()[1] == following[0]).all()
    assert random.getstate() == following[1]


def test_attributes_that_a_forward_pass_adds_are_gone():
    model = Restless()
    with preserved(model):
        model(torch.randn(4, 3))
    assert not hasattr(model, "cache")


def test_the_users_own_hooks_still_can_be_removed_afterwards():
    model = nn.Linear(2, 2)
    handle = model.register_forward_hook(lambda *_: None)
    with preserved(model):
        model.register_forward_hook(lambda *_: None)
    assert len(model._forward_hooks) == 1
    handle.remove()
    assert not model._forward_hooks


@pytest.mark.parametrize("wrap", ["closure", "partial", "method", "object"])
def test_a_model_behind_a_function_is_restored_too(wrap):
    norm = nn.BatchNorm1d(3)

    class Holder:
        def __init__(self):
            self.net = norm

        def __call__(self, x):
            return self.net(x)

    functions = {
        "closure": lambda x: norm(x),  # noqa: PLW0108 - the closure is the point
        "partial": functools.partial(norm),
        "method": norm.forward,
        "object": Holder(),
    }
    with preserved(functions[wrap]):
        functions[wrap](torch.randn(4, 3))
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_inputs_that_are_changed_in_place_are_restored():
    x = torch.randn(3, requires_grad=True)
    y = torch.randn(3)
    before = y.clone()
    with preserved(len, {"x": x, "rest": [y]}):
        y.zero_()
        (x * 2).sum().backward()
    assert torch.equal(y, before)
    assert x.grad is None


def test_a_graph_that_the_user_holds_stays_usable():
    model, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    held = model(x).square().sum()
    with preserved(model):
        model.weight.data.mul_(3)
    held.backward()
    assert x.grad is not None


def test_generators_go_back_to_where_they_were():
    seed_everything(3)
    state = RandomState.capture()
    drawn = torch.rand(2), np.random.rand(), random.random()  # noqa: S311
    state.restore()
    again = torch.rand(2), np.random.rand(), random.random()  # noqa: S311
    assert torch.equal(drawn[0], again[0])
    assert drawn[1:] == again[1:]


def test_models_without_values_or_made_in_inference_mode_pass_through():
    with torch.inference_mode():
        inference = nn.BatchNorm1d(3)
    for model in (nn.Linear(2, 2, device="meta"), nn.LazyLinear(2), inference):
        with preserved(model):
            model.eval()
        assert model.training
