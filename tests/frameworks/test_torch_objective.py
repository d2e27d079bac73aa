from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from gradvitals import Estimate
from gradvitals.frameworks.torch.objective import cotangents, output_tensors, scalar
from gradvitals.vocabulary import InputError, ModelError


class Pair(NamedTuple):
    value: Any
    loss: Any


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


def test_a_given_loss_goes_before_the_outputs_own():
    y = torch.ones(3)
    value, kind = scalar(Output(y, torch.tensor(7.0)), lambda out: out.logits.sum())
    assert (value.item(), kind) == (3.0, "loss")


@pytest.mark.parametrize(
    "output",
    [
        Output(torch.ones(3), torch.tensor(7.0)),
        {"loss": torch.tensor([7.0])},
        Pair(1, torch.tensor(7.0)),
        torch.tensor(7.0),
    ],
)
def test_the_outputs_own_scalar_loss_is_used(output):
    value, kind = scalar(output, None)
    assert (value.item(), value.shape, kind) == (7.0, (), "output-loss")


@pytest.mark.parametrize("output", [torch.ones(3), Output(torch.ones(2)), {"loss": torch.ones(2)}, (torch.ones(2),)])
def test_without_a_scalar_there_is_no_loss(output):
    assert scalar(output, None) == (None, "random")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3), "not a scalar"),
        (3.0, "not a tensor"),
        (torch.tensor(3), "not a real number"),
        (torch.tensor(1j), "not a real number"),
        (None, "not a tensor"),
    ],
)
def test_a_loss_that_is_no_real_scalar_is_refused_with_what_it_returned(value, message):
    with pytest.raises(InputError, match=message) as caught:
        scalar(torch.ones(2), lambda _: value)
    assert "it returned" in caught.value.where


def test_a_loss_that_raises_is_the_models_error_with_its_cause():
    with pytest.raises(ModelError, match="the loss raised") as caught:
        scalar(torch.ones(2), lambda _: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_every_floating_tensor_of_any_nesting_is_found_with_its_path():
    output = {"a": (torch.ones(1), [torch.ones(2)]), "b": Pair(torch.ones(3), None), "ids": torch.tensor(1)}
    nested = Output(torch.ones(4), output)
    assert [(path, tensor.numel()) for path, tensor in output_tensors(nested)] == [
        ("output.logits", 4),
        ("output.loss.a[0]", 1),
        ("output.loss.a[1][0]", 2),
        ("output.loss.b.value", 3),
    ]
    assert output_tensors(Estimate(1.0, 0.1)) == []


def test_cotangents_have_unit_rms_and_repeat_with_their_seed():
    tensors = [torch.zeros(5, 3, dtype=torch.float64), torch.zeros(2)]
    before = torch.get_rng_state()
    first, again, other = cotangents(tensors, 1), cotangents(tensors, 1), cotangents(tensors, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(c.shape == t.shape and c.dtype == t.dtype for c, t in zip(first, tensors, strict=True))
    assert all(abs(c.square().mean().sqrt() - 1) < 1e-6 for c in first)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
