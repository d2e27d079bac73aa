"""What depends on a signal's values in this batch: positions and masks by which entries are taken (routes to experts).

How many there are differs from draw to draw. Where there are real values, those of this batch count as known; what was
taken by its own size has other moments, and is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradvitals.frameworks.torch.prediction.kinship import kin_of
from gradvitals.frameworks.torch.prediction.knowledge import Overwritten, Trace
from gradvitals.frameworks.torch.prediction.operation import Operation
from gradvitals.frameworks.torch.prediction.values import Constant, Node, nested_tensors

#: Operations that take entries by a mask.
BY_MASK = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::masked_select"})


class ChosenByItselfError(Exception):
    """Of a signal's entries those were taken that are large, or small."""

    def __init__(self) -> None:
        super().__init__("entries of a signal taken by their own size")


def chosen_by(values: Sequence[Any]) -> frozenset[int]:
    """The signals, by their keys, on whose values it depends what is made of these."""
    found = [kin_of(value).origins for value in values if isinstance(value, Node)]
    return frozenset[int]().union(*found, *(value.chosen_by for value in values if isinstance(value, Constant)))


def refuse_own_choice(values: Sequence[Any]) -> None:
    """Stop where one of them is a signal, and another was chosen by its values.

    Raises
    ------
    ChosenByItselfError
        If so.

    """
    known = frozenset[int]().union(*(value.chosen_by for value in values if isinstance(value, Constant)))
    if known and any(isinstance(value, Node) and not kin_of(value).origins.isdisjoint(known) for value in values):
        raise ChosenByItselfError


def take_masks(trace: Trace, tensors: Sequence[torch.Tensor]) -> None:
    """Let masks count as what they are in this batch."""
    for tensor in tensors:
        value = trace.value(tensor)
        if isinstance(value, Node) and tensor.dtype == torch.bool:
            trace.bind(tensor, Constant(tensor.detach().clone(), chosen_by=chosen_by([value])))


def positions(operation: Operation, made: torch.Tensor, reason: str, *, real: bool) -> Any:
    """What is known of positions that can't be drawn: their values in this batch, or by what they aren't known."""
    if not real:
        return Overwritten(operation.name, operation.trace.where(), reason)
    values = [operation.trace.value(tensor) for tensor in nested_tensors((operation.args, dict(operation.kwargs)))]
    return Constant(made.detach().clone(), chosen_by=chosen_by(values))
