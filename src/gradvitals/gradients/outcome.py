"""What a check found: of each tensor, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from gradvitals.frameworks.problem import Gradient
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_kinks import Kinks
from gradvitals.gradients.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one tensor.

    ``status`` is right, wrong or unresolved; ``relative_error`` is over everything measured of this tensor (of the
    tensors that were moved with it, where it never was moved alone) and ``numeric_error`` that number's own error;
    ``resolution`` the relative error (2-norm) that would have been caught with 99.5 % probability,
    ``entry_resolution`` the same for a single entry relative to the tensor's RMS. ``checked_count`` and
    ``wrong_count`` are given where all entries were measured; ``entries`` are those that were measured closely.
    ``imprecision`` is how far (2-norm, relative) the claimed gradient lies from what the same formula gives in float64,
    where that was asked for and is more than rounding explains.
    """

    status: str
    relative_error: float
    numeric_error: float
    resolution: float
    entry_resolution: float
    entries: tuple[Entry, ...] = ()
    mistake: Mistake | None = None
    checked_count: int | None = None
    wrong_count: int | None = None
    imprecision: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything that the rules judge; ``gradients`` as the backward pass gave them, one per tensor.

    ``base`` is what is known at the point.
    """

    outcomes: tuple[Outcome, ...]
    gradients: tuple[Gradient, ...]
    evaluations: int
    backwards: int
    spread: float = 0.0
    value_finite: bool = True
    kinks: Kinks | None = None
    base: Base | None = None
    evaluation: str = "sequential"
