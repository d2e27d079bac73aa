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
#: And those of what weights do that are copies of others: they depart layer by layer in the same sense, which isn't the
#: same in both directions.
COPIED_FORWARDS, COPIED_BACKWARDS = -1, -2
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

    @property
    def chance(self) -> float:
        """The same without what copied weights make, which is off in one sense."""
        return sum(part * part for cause, part in self.parts.items() if cause >= LEFT_OUT)

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


def summed_scatter(first: Scatter, second: Scatter, share: float, copied: int) -> Scatter:
    """Of a sum of two tensors, of whose square the first has a share.

    What a copied weight made isn't independent of what is there already: the product of the two counts as well.
    """
    made = first.times(share) + second.times(1 - share)
    alike = abs(first.parts.get(copied, 0.0) - second.parts.get(copied, 0.0))
    if alike == 0:
        return made
    return made + Scatter({copied: 2 * math.sqrt(max(share * (1 - share), 0.0)) * alike})
