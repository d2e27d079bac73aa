"""The operation that makes NaN or infinity, and why: forwards, on the way back, in the loss, by its weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradvitals import Case
from gradvitals.frameworks.torch.notfinite import find_producer


class Chain(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def found(model, *inputs, loss=None):
    """The producer; the model is as it was afterwards."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    producer = find_producer(Case(model, inputs, loss=loss))
    assert all(
        torch.equal(
            state[name],
            tensor,
        )
        or tensor.isnan().any()
        for name, tensor in model.state_dict().items()
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return producer


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(5, 4)


FORWARDS = {
    "logarithm of a negative number": (torch.log, "log", "log-of-negative"),
    "the same in place": (lambda x: x.clone().log_(), "log", "log-of-negative"),
    "logarithm of zero, NaN only in the next layer": (lambda x: torch.log(x.relu() * 0), "log", "log-of-zero"),
    "logarithm of zero, reshaped and moved": (lambda x: torch.log(x * 0).view(4, 5).t() - 1, "log", "log-of-zero"),
    "0/0": (lambda x: (x - x) / (x - x), "div", "zero-over-zero"),
    "1/0": (lambda x: x / (x * 0), "div", "division-by-zero"),
    "reciprocal of zero": (lambda x: 1 / (x * 0), "reciprocal", "division-by-zero"),
    "division by a number": (lambda x: (x - x) / 0, "div", "zero-over-zero"),
    "normalisation by a norm of zero": (lambda x: x / (x * 0).norm(), "div", "division-by-zero"),
    "root of a negative number": (torch.sqrt, "sqrt", "root-of-negative"),
    "broken power of a negative number": (lambda x: x**0.5, "pow", "root-of-negative"),
    "zero to a negative power": (lambda x: (x * 0) ** -1.5, "pow", "division-by-zero"),
    "exponential": (lambda x: (1000 * x.abs()).exp(), "exp", "overflow"),
    "sum of large squares": (lambda x: (x * 1e30) * (x * 1e30), "mul", "overflow"),
    "arc cosine beyond 1": (lambda x: (10 * x).acos(), "acos", "outside-domain"),
    "standard deviation of one value": (lambda x: x[:, :1].var(1, keepdim=True) + x, "var", "too-few-values"),
}


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_the_operation_and_its_cause_are_named_forwards(name, x):
    between, operation, cause = FORWARDS[name]
    producer = found(Chain(between), x)
    assert (producer.operation, producer.cause, producer.path) == (operation, cause, "Chain")
    assert not producer.backward


BACKWARDS = {
    "root at zero": (lambda x: (x - x).square().sqrt(), "sqrt", "infinite-slope"),
    "root at zero that where() hides": (
        lambda x: torch.where(x > 0, x.clamp(min=0).sqrt(), torch.zeros_like(x)) + x,
        "sqrt",
        "infinite-slope",
    ),
    "broken power at zero": (lambda x: (x * 0) ** 0.5 + x, "pow", "infinite-slope"),
    "logarithm at zero that where() hides": (
        lambda x: torch.where(x > 0, x.clamp(min=0).log(), x),
        "log",
        "infinite-slope",
    ),
    "arc cosine at 1": (lambda x: (x * 0 + 1).acos() + x, "acos", "infinite-slope"),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_the_operation_and_its_cause_are_named_on_the_way_back(name, x):
    between, operation, cause = BACKWARDS[name]
    producer = found(Chain(between), x)
    assert (producer.operation, producer.cause, producer.path, producer.backward) == (operation, cause, "Chain", True)


class Attention(nn.Module):
    def __init__(self, *, whole_row, fused):
        super().__init__()
        self.qkv, self.whole_row, self.fused = nn.Linear(4, 12), whole_row, fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(0 if self.whole_row else 1)
        if self.fused:
            return F.scaled_dot_product_attention(
                q, k, v, torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, -math.inf)
            )
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, -math.inf).softmax(-1) @ v


def test_a_fully_masked_row_is_told_and_a_causal_mask_is_not():
    x = torch.randn(2, 5, 4)
    producer = found(Attention(whole_row=True, fused=False), x)
    assert (producer.operation, producer.cause) == ("softmax", "masked-row")
    assert found(Attention(whole_row=False, fused=False), x) is None
    assert found(Attention(whole_row=False, fused=True), x) is None


def test_a_fully_masked_row_inside_multi_head_attention_is_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            hidden = torch.ones(x.shape[:2], dtype=torch.bool)
            return self.attention(x, x, x, key_padding_mask=hidden)[0]

    producer = found(Net(), torch.randn(2, 5, 4))
    assert (producer.path, producer.cause) == ("attention", "masked-row")


def test_an_overflow_in_half_precision_is_told_with_what_went_in(x):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    model[1].weight.data.fill_(6e4)
    producer = found(model, 10 * x.half())
    assert (producer.path, producer.cause, producer.dtype) == ("1", "overflow", "float16")
    assert producer.largest == pytest.approx(6e4, rel=1e-2)


def test_an_overflow_of_the_gradient_in_half_precision_is_told(x):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    producer = found(model, x.half(), loss=lambda y: (y.float() * 1e6).sum())
    assert (producer.path, producer.cause, producer.backward) == ("loss", "overflow", True)


def test_weights_that_are_not_finite_are_told_from_operations(x):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data[0, 0] = math.nan
    producer = found(model, x)
    assert (producer.path, producer.cause) == ("1", "bad-weights")


def test_the_loss_has_its_own_place(x):
    assert found(nn.Linear(4, 2), x, loss=lambda y: (y - y).sum() / 0).path == "loss"
    producer = found(nn.Linear(4, 2), x, loss=lambda y: (y * 0).log().sum())
    assert (producer.path, producer.operation, producer.cause) == ("loss", "log", "log-of-zero")
    producer = found(nn.Linear(4, 2), x, loss=lambda y: (y * 0).norm(dim=1).pow(0.5).sum())
    assert (producer.path, producer.operation, producer.backward) == ("loss", "pow", True)


class Careless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g / 0


def test_a_function_written_by_hand_is_named(x):
    producer = found(Chain(Careless.apply), x)
    assert (producer.operation, producer.path, producer.backward) == ("careless", "Chain", True)


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_a_checkpoint_forwards_is_seen(x, reentrant):
    model = Chain(lambda h: checkpoint(torch.log, h, use_reentrant=reentrant))
    assert found(model, x).cause == "log-of-negative"


def test_a_finite_pass_has_no_producer(x):
    assert found(Chain(torch.tanh), x) is None


def test_what_is_compiled_is_looked_into(x):
    model = Chain(torch.compile(torch.log, backend="eager"))
    assert found(model, x).operation == "log"
