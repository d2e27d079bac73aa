"""How one random network departs from the mean over all: log E[x²] = its mean + Σ cₖ ξₖ over independent causes.

Every layer of finite width is a cause of its own, and everything that follows inherits it. Kept apart by their causes,
departures that two tensors have in common add up where the two meet (a residual stream and its branch), and those that
they don't have in common are averaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

#: The one cause of all that a theory of wide networks leaves out: terms of order 1/n of the mean itself. They don't
#: average out over layers as chance does, and so they add up.
LEFT_OUT = 0
_numbers = itertools.count(1)


def new_cause() -> int:
    """A number that no other cause has."""
    return next(_numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """A sum of independent departures of unit variance, by their causes, to first order.

    Examples
    --------
    >>> one, two = Scatter.of(0.04), Scatter.of(0.09)
    >>> round((one + two).variance, 4)  # of a product of two tensors
    0.13
    >>> round((one.times(0.5) + one.times(0.5)).variance, 4)  # of a sum of two that depart together
    0.04

    """

    parts: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, variance: float, cause: int | None = None) -> Scatter:
        """One departure of a given variance, of a new cause unless it is named."""
        if variance <= 0:
            return NONE
        return cls({new_cause() if cause is None else cause: math.sqrt(variance)})

    @classmethod
    def left_out(cls, size: float) -> Scatter:
        """What the theory may be off by, relative to E[x²]."""
        return cls({LEFT_OUT: size})

    @property
    def variance(self) -> float:
        """Var log E[x²]."""
        return sum(part * part for part in self.parts.values())

    def __add__(self, other: Scatter) -> Scatter:
        """Of a product of two tensors: the logarithms add up."""
        small, large = sorted((self.parts, other.parts), key=len)
        if not small:
            return Scatter(large)
        parts = dict(large)
        for cause, part in small.items():
            parts[cause] = parts.get(cause, 0.0) + part
        return Scatter(parts)

    def times(self, factor: float) -> Scatter:
        """Of a power, or weighed by a share of a sum."""
        if factor == 1:
            return self
        return Scatter({cause: factor * part for cause, part in self.parts.items()}) if factor else NONE


NONE = Scatter()
