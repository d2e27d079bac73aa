"""Mistakes that people make in backward passes are named, with the tensor and the part of it: a case of each kind, and
the share that is right over all of them.
"""

from __future__ import annotations

import pytest

from oracles import wrong_backwards

CASES = {case.name: case for case in wrong_backwards.cases()}

#: One of each kind, with what the finding must say.
EXAMPLES = [
    "linear: dx has the wrong sign",
    "linear: dw is reshaped where it should be transposed",
    "product: the factors are exchanged",
    "linear: db is the first sample's",
    "linear: a row of dw is never filled",
    "linear: two rows of dw are exchanged",
    "relu: the cotangent is ignored",
    "batch norm: mean and variance are taken for constants",
    "conv: the kernel's gradient is not flipped back",
    "dropout: the mask is forgotten on the way back",
    "softmax: the Jacobian is taken for diagonal",
    "residual: the skip connection is forgotten",
    "moving average: the gradient is one step late",
    "weight decay: it is in the cost, not in the gradient",
    "lasso: it is in the cost, not in the gradient",
    "cross-entropy: 1/N is missing",
    "object: the gradient is added to that of the call before",
    "object: the backward pass uses the call before",
    "torch: a mean goes through item()",
    "torch float32 linear: the factor 2 is lost",
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_mistake_is_called_by_its_name(name):
    case = CASES[name]
    report = case.check()
    judged = wrong_backwards.judged(case, report)
    assert judged.kind, f"said {judged.said}, expected {sorted(case.kinds)}\n{report}"
    assert judged.tensors, str(report)
    assert judged.facts, str(report)
    assert judged.entry is not False, str(report)


@pytest.mark.slow
def test_nine_of_ten_mistakes_are_named_and_every_tensor_is():
    judged = {name: wrong_backwards.judged(case, case.check()) for name, case in CASES.items()}
    named = sum(outcome.kind for outcome in judged.values())
    entries = [outcome.entry for outcome in judged.values() if outcome.entry is not None]
    assert named >= 0.9 * len(judged), [name for name, outcome in judged.items() if not outcome.kind]
    assert [name for name, outcome in judged.items() if not outcome.tensors] == []
    assert sum(entries) >= 0.95 * len(entries)
