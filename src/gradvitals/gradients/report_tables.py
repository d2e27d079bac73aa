"""The tables of a check: what is known of each tensor, and the worst entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.grades import grade
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

#: Entries shown of each tensor, worst first.
_SHOWN_ENTRIES = 3


def tensor_table(tensors: Sequence[Tensor], measured: Measurement) -> Table:
    """One row per tensor."""
    identity = ("path", "role", "shape", "dtype")
    columns = (*identity, "status", "relative_error", "resolution", "entry_resolution", "grade", "likely")
    rows = tuple(_tensor_row(tensor, outcome) for tensor, outcome in zip(tensors, measured.outcomes, strict=True))
    return Table("tensors", columns, ("",) * len(columns), rows)


def _tensor_row(tensor: Tensor, outcome: Outcome) -> tuple[Fact, ...]:
    return (
        tensor.path,
        tensor.role,
        tensor.shown_shape,
        tensor.dtype,
        outcome.status,
        outcome.relative_error,
        outcome.resolution,
        outcome.entry_resolution,
        grade(outcome.relative_error, outcome.numeric_error),
        outcome.mistake.likely if outcome.mistake else None,
    )


def entry_table(tensors: Sequence[Tensor], measured: Measurement) -> Table:
    """The worst entries of each tensor, numeric against analytic."""
    rows: list[tuple[Fact, ...]] = []
    for tensor, outcome in zip(tensors, measured.outcomes, strict=True):
        worst = sorted(outcome.entries, key=lambda e: (-e.wrong, -abs(e.numeric - e.analytic)))[:_SHOWN_ENTRIES]
        for entry in worst:
            index = tuple(int(i) for i in np.unravel_index(entry.index, tensor.shape)) if tensor.shape else ()
            rows.append((tensor.path, index, entry.numeric, entry.error, entry.analytic))
    return Table("entries", ("path", "index", "numeric", "error", "analytic"), ("",) * 5, tuple(rows))
