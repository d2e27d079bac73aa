"""Whatever looks changes nothing: weights, buffers, gradients, modes, hooks, random states, inputs, and the contexts in
force are as before, also when the model raises or the user loses patience.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv

LOOKING = {"check": gv.check, "probe": gv.probe, "plan_init": gv.plan_init, "checkup": gv.checkup}


class Everything(nn.Module):
    """What verbs could leave a trace in: running statistics, dropout, ties, frozen weights, hooks, mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.tied = nn.Linear(8, 8, bias=False)
        self.again = nn.Linear(8, 8, bias=False)
        self.again.weight = self.tied.weight
        self.frozen = nn.Linear(8, 3)
        self.frozen.weight.requires_grad_(requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.fails_with: BaseException | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = self.drop(torch.tanh(self.norm(self.first(x))))
        np.random.random()
        random.random()  # noqa: S311
        if self.fails_with is not None:
            raise self.fails_with
        return self.frozen(torch.tanh(self.again(torch.tanh(self.tied(hidden)))))


@pytest.fixture
def model() -> Everything:
    torch.manual_seed(0)
    model = Everything()
    x = torch.randn(5, 6)
    model(x).sum().backward()  # so that there are gradients, and running statistics
    model.norm.eval()
    model.first.register_forward_hook(lambda *_: None)
    model.tied.weight.register_hook(lambda grad: grad)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """All that could change, in a form that compares bit by bit; objects that must stay the same by their identity."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {
        "identity": {name: id(tensor) for name, tensor in tensors.items()},
        "values": {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "grad": {
            name: None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
            for name, tensor in tensors.items()
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(module, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            ]
            for name, module in model.named_modules()
        },
        "hooks of tensors": {name: len(tensor._backward_hooks or ()) for name, tensor in tensors.items()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "classes": {name: type(module) for name, module in model.named_modules()},
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.mark.parametrize("verb", LOOKING)
@pytest.mark.parametrize("objective", ["loss", "random"])
def test_looking_leaves_no_trace(model: Everything, verb: str, objective: str) -> None:
    x = torch.randn(5, 6)
    kept = x.clone()
    before = state(model)
    keywords = {"loss": lambda output: output.square().mean()} if objective == "loss" else {}
    report = LOOKING[verb](model, x, **keywords)
    assert report.verb == verb
    assert state(model) == before
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("verb", [*LOOKING, "init_"])
@pytest.mark.parametrize("failure", [RuntimeError("on purpose"), KeyboardInterrupt()], ids=["raises", "interrupted"])
def test_a_model_that_fails_is_left_as_it_was(model: Everything, verb: str, failure: BaseException) -> None:
    x = torch.randn(5, 6)
    before = state(model)
    model.fails_with = failure
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else gv.ModelError
    with pytest.raises(expected):
        getattr(gv, verb)(model, x)
    model.fails_with = None
    assert state(model) == before


@pytest.mark.parametrize("verb", LOOKING)
def test_looking_is_allowed_without_gradients_and_keeps_it_so(model: Everything, verb: str) -> None:
    x = torch.randn(5, 6)
    with torch.no_grad():
        before = state(model)
        assert LOOKING[verb](model, x).tables
        assert state(model) == before
        assert not torch.is_grad_enabled()


def test_init_changes_weights_and_nothing_else(model: Everything) -> None:
    x = torch.randn(5, 6)
    before = state(model)
    gv.init_(model, x)
    after = state(model)
    assert {key for key in before if before[key] != after[key]} == {"values"}
    buffers = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "calls", "frozen.weight"}
    assert {name for name in buffers if before["values"][name] != after["values"][name]} == set()
    assert before["values"]["first.weight"] != after["values"]["first.weight"]


@pytest.mark.parametrize("verb", LOOKING)
def test_looking_twice_says_the_same(model: Everything, verb: str) -> None:
    x = torch.randn(5, 6)
    first, second = LOOKING[verb](model, x, seed=5), LOOKING[verb](model, x, seed=5)
    assert first.tables == second.tables or repr(first.tables) == repr(second.tables)
    assert [finding.code for finding in first.findings] == [finding.code for finding in second.findings]


def test_checking_numpy_code_leaves_inputs_and_random_states() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(4, 3)), generator.normal(size=(3, 2))

    def forward(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        random.random()  # noqa: S311
        np.random.random()
        return x @ w

    kept = x.copy(), w.copy()
    before = str(np.random.get_state()), random.getstate()
    assert gv.checkup(forward, x, w, vjp=lambda dout: (dout @ w.T, x.T @ dout)).ok
    assert (str(np.random.get_state()), random.getstate()) == before
    assert np.array_equal(x, kept[0])
    assert np.array_equal(w, kept[1])
