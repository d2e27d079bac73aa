"""Forward mode: the derivative along a direction, where the operations have one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.frameworks import Case, opened


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


MODELS = {
    "mlp": lambda: (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(3, 4)),
    "batch norm in training": (lambda: (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), torch.randn(6, 4))),
    "dropout": lambda: (nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4)), torch.randn(6, 4)),
    "LSTM": lambda: (nn.LSTM(4, 3), torch.randn(2, 3, 4)),
    "attention": lambda: (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(2, 3, 4)),
    "in place": lambda: (lambda x: torch.relu_(x.mul_(3)) + x, torch.randn(7)),
    "complex": lambda: (lambda z: torch.exp(z) * z.conj(), torch.randn(4, dtype=torch.complex64)),
    "partly constant": lambda: (lambda x: (x.sin(), torch.ones(2)), torch.randn(4)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_forward_mode_agrees_with_reverse_mode(name):
    model, x = MODELS[name]()
    model, x = (
        (model.double() if isinstance(model, nn.Module) else model),
        (x.to(torch.promote_types(x.dtype, torch.float64))),
    )
    rng = np.random.default_rng(0)
    with opened(Case(model, (x,))) as problem:
        direction = {at: rng.standard_normal(tensor.size) for at, tensor in enumerate(problem.tensors)}
        found = problem.tangent(direction)
        cotangent = rng.standard_normal(found.size)
        gradients = problem.gradient(cotangent)
        truth = sum(float(g.value @ direction[at]) for at, g in enumerate(gradients))
        assert problem.value({}).size == found.size
    assert cotangent @ found == pytest.approx(truth, rel=1e-12)


def test_a_direction_may_move_some_tensors_only():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with opened(Case(model, (x,))) as problem:
        found = problem.tangent({1: np.array([1.0, -2.0])})
    assert np.array_equal(found.reshape(4, 2), np.tile([1.0, -2.0], (4, 1)))


def test_where_there_is_no_forward_mode_there_is_no_tangent():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, dout):
            return dout * 2

    with opened(Case(Own.apply, (torch.randn(3),))) as problem:
        assert problem.tangent({0: np.ones(3)}) is None
        assert np.array_equal(problem.value({}), problem.value({}))


def test_a_wrong_jvp_shows():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, dout):
            return dout * 2

        @staticmethod
        def jvp(ctx, dx):
            return dx * 3

    with opened(Case(Own.apply, (torch.randn(3),))) as problem:
        assert problem.tangent({0: np.ones(3)}).tolist() == [3, 3, 3]
