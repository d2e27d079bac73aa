"""How precisely a function seems to be computed, from its noise near the point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradvitals.gradients.measure_base import Base

#: A rounded number is off by a uniform error: its standard deviation is half a step over this.
_UNIFORM = math.sqrt(3)


@dataclass(frozen=True, slots=True)
class Precision:
    """The unit roundoff that the function's noise looks like, and the one that its dtype has."""

    seen: float
    expected: float

    @property
    def ratio(self) -> float:
        """How many times coarser than the dtype."""
        return self.seen / self.expected if self.expected else 0.0


def measure_precision(base: Base, expected: float) -> Precision:
    """The unit roundoff that would make as much noise as was seen.

    Rounding every input once makes noise of the size of ‖g·x‖ (entry by entry) times the unit roundoff, rounding every
    output once ‖w·F‖ times it. A function that is badly conditioned makes more noise as well, but then its gradient is
    as large.

    Parameters
    ----------
    base : Base
    expected : float
        The unit roundoff of the dtype.

    """
    carried_over = [*map(np.multiply, base.gradients, base.points), base.cotangent * base.value]
    carried = math.sqrt(sum(float(v @ v) for v in carried_over))
    noise = base.projected_noise
    if not (carried > 0 and math.isfinite(carried) and math.isfinite(noise)):
        return Precision(0.0, expected)
    return Precision(max(_UNIFORM * noise / carried, base.inner_roundoff), expected)
