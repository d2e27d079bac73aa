"""Each evaluation starts from the state in which the first one started."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.torch.replay import Replay


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Stateful(nn.Module):
    """Whatever can change from call to call."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(3))
        self.hidden = None
        self.pair = (torch.zeros(3), torch.zeros(3))
        self.generator = torch.Generator().manual_seed(3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.kind == "buffer in place":
            self.mean.add_(x.detach())
            return x * self.mean
        if self.kind == "buffer behind autograd":
            self.mean.data[0] += 1
            return x * self.mean
        if self.kind == "buffer replaced":
            self.mean = self.mean + 1
            return x * self.mean
        if self.kind == "hidden state":
            self.hidden = x.detach() if self.hidden is None else self.hidden + x.detach()
            return x * self.hidden
        if self.kind == "pair":
            self.pair = tuple(item + 1 for item in self.pair)
            return x * self.pair[0]
        if self.kind == "new attribute":
            if hasattr(self, "seen"):
                return x * 2
            self.seen = x.detach()
            return x
        if self.kind == "own generator":
            return x * torch.rand(3, generator=self.generator)
        if self.kind == "numpy":
            return x * float(np.random.rand())
        if self.kind == "python":
            return x * random.random()  # noqa: S311
        return x * torch.rand(3)


KINDS = (
    "buffer in place",
    "buffer behind autograd",
    "buffer replaced",
    "hidden state",
    "pair",
    "new attribute",
    "own generator",
    "numpy",
    "python",
    "torch",
)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_and_gradients_repeat_themselves(kind):
    model, x = Stateful(kind), torch.tensor([1.0, 2.0, 3.0])
    fresh = Stateful(kind)
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    truth = fresh(x).detach().double().numpy()
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
    with opened(Case(model, (x,))) as problem:
        values = [problem.value({}) for _ in range(3)]
        gradients = [problem.gradient(np.ones(3))[0].value for _ in range(3)]
        values += [problem.value({}) for _ in range(3)]
    assert all(np.array_equal(value, truth) for value in values)
    assert all(np.array_equal(gradients[0], again) for again in gradients)
    assert model.calls == 0
    assert torch.equal(model.mean, torch.zeros(3))
    assert model.hidden is None
    assert not hasattr(model, "seen")


def test_what_moves_late_is_put_back_from_then_on():
    model, x = Stateful("torch"), torch.ones(3)
    with opened(Case(model, (x,))) as problem:
        first = problem.value({})
        for _ in range(40):
            problem.value({})
        model.kind = "numpy"  # draws from another generator now
        found = [problem.value({})[0] for _ in range(40)]
    assert len(set(found)) <= 18  # until the next look
    assert len(set(found[-20:])) == 1
    assert first.size == 3


def test_a_generator_in_a_closure_is_put_back():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with opened(Case(lambda x: x * torch.rand(3, generator=generator), (torch.ones(3),))) as problem:
        assert np.array_equal(problem.value({}), problem.value({}))
    assert torch.equal(generator.get_state(), before)


def test_nothing_is_put_back_that_does_not_move():
    replay = Replay([nn.BatchNorm1d(3).eval()])
    for _ in range(5):
        replay.rewind()
    assert replay._moving == []
