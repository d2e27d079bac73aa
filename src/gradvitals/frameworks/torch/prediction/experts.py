"""Rows that are each multiplied by the weights of their own expert: mixtures of experts with a grouped product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.linear import moments_of, product
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Weight
from gradvitals.maths.field import Field, Role


@rule("_grouped_mm")
def _grouped(operation: Operation) -> None:
    """Rows in order of their experts, whose last rows are told: those of different experts become strangers."""
    rows, weights = operation.args[:2]
    ends, value = operation.value(operation.argument(2, "offs")), operation.value(weights)
    if rows.dim() != 2 or weights.dim() != 3 or not isinstance(value, (Constant, Weight)):
        raise NotImplementedError("a grouped product of this kind")
    if not isinstance(ends, Constant):
        raise NotImplementedError("experts whose rows aren't known")
    x = operation.node(rows, [Role.PLACE, Role.UNIT])
    which = torch.searchsorted(ends.value.long(), torch.arange(rows.shape[0], device="cpu"), right=True).numpy()
    mean = moments_of(value).mean
    steps = operation.trace.steps
    made = product(operation, x, 1, value, int(weights.shape[2]), 1)
    node = operation.trace.value(operation.first)
    node._field = _apart(made, which, mean**2)  # noqa: SLF001 - it was made in this very operation
    step = steps.pop()

    def pullback(gradient: Field) -> Sequence[Field | None]:
        return [_apart(part, which, mean**2) if part is not None else None for part in step.pullback(gradient)]

    steps.append(replace(step, pullback=pullback))


def _apart(field: Field, which: np.ndarray, common: float) -> Field:
    """What rows have in common only by weights that are the same is left where they have the same expert."""
    axes = field.axes
    if not axes or axes[0].role is not Role.PLACE or field.places != 1 or common:
        return field
    held = which[: field.kernel.shape[0]]
    same = held[:, None] == held[None, :]
    return replace(field, kernel=field.kernel * same).consistent()
