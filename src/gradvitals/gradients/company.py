"""Tensors that are moved together, each by as much as makes it contribute alike, and what lines through them tell of
each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.measure_base import ZERO_WITHIN, Base
from gradvitals.gradients.measure_lines import Line
from gradvitals.maths.detection import detectable, hidden, shows

#: Normal directions are cut here, so that no entry is moved absurdly far.
_FARTHEST = 4.0
#: What many lines miss together is looked at when there are so many of them.
LOOKS = (4, 8)
#: Displacements are rounded to the format: a single entry moves in too few ways for a normal direction.
_FEWEST_ENTRIES = 2
#: Below this a slope is nothing, whatever it is compared with.
_NOTHING = 1e-30


@dataclass(frozen=True, slots=True)
class Company:
    """A group of tensors and how far each is moved at step 1.

    With normal directions what is missing is N(0, ‖error‖²) whatever the error's pattern, so that the chance of
    overlooking it can be computed, see :func:`~gradvitals.maths.detection.detectable`.
    """

    base: Base
    reach: Mapping[int, float]

    @property
    def group(self) -> list[int]:
        return list(self.reach)

    @property
    def contributions(self) -> list[float]:
        """How much each tensor contributes to a slope, one standard deviation."""
        return [reach * self.base.size(at) for at, reach in self.reach.items()]

    @property
    def material(self) -> float:
        """Less than this along a line is the backward pass's own rounding."""
        return self.base.material * math.sqrt(sum(c * c for c in self.contributions))

    @property
    def entries(self) -> int:
        return sum(self.base.points[at].size for at in self.reach)

    def direction(self, rng: np.random.Generator) -> dict[int, Array]:
        """A random normal direction through all of them."""
        drawn = rng.standard_normal(sum(self.base.points[at].size for at in self.reach))
        np.clip(drawn, -_FARTHEST, _FARTHEST, out=drawn)
        direction, start = dict[int, Array](), 0
        for at, reach in self.reach.items():
            stop = start + self.base.points[at].size
            direction[at], start = reach * drawn[start:stop], stop
        return direction

    def resolved(self, lines: Sequence[Line], reference: float) -> dict[int, float]:
        """The relative error of each tensor that the lines would have shown, see :func:`relative_to`."""
        material = self.material
        bars = [max(line.bar, material) for line in lines]
        caught = detectable(bars)
        if self.entries == 1:
            caught = min(caught, self._certainly(bars, lines))
        return {
            at: relative_to(self.base, at, caught, reach * self.base.size(at), reference)
            for at, reach in self.reach.items()
        }

    def _certainly(self, bars: Sequence[float], lines: Sequence[Line]) -> float:
        """What lines show of the error of a single entry: nothing of it lies across a line."""
        ((at, reach),) = self.reach.items()
        moved = [abs(float(line.direction[at][0])) / reach for line in lines]
        return min((bar / by for bar, by in zip(bars, moved, strict=True) if by > 0), default=math.inf)

    def bounded(self, lines: Sequence[Line], reference: float) -> dict[int, float]:
        """The relative error of each tensor that may hide behind what is missing along lines together.

        It owes nothing to the error bars but for what isn't random: in 16-bit formats these are wide.
        """
        if self.entries < _FEWEST_ENTRIES:
            return dict.fromkeys(self.reach, math.inf)
        return self._hiding(lines, reference)

    def shown(self, lines: Sequence[Line], reference: float) -> dict[int, float]:
        """The same where lines miss more together than noise explains, though none of them enough: then what single
        lines would have shown says too little. Nothing, where they don't.
        """
        if not shows([line.missing for line in lines], [line.error for line in lines]):
            return {}
        alone, together = self.resolved(lines, reference), self._hiding(lines, reference)
        return {at: max(alone[at], together[at]) for at in self.reach}

    def _hiding(self, lines: Sequence[Line], reference: float) -> dict[int, float]:
        bias = math.sqrt(sum(line.bias**2 for line in lines) / len(lines))
        caught = max(hidden([line.missing for line in lines], looks=len(LOOKS)) + bias, self.material)
        caught = caught if math.isfinite(caught) else math.inf
        return {
            at: relative_to(self.base, at, caught, reach * self.base.size(at), reference)
            for at, reach in self.reach.items()
        }


def gathered(base: Base, group: Sequence[int], most: float = 1.0) -> Company:
    """A group that is moved together.

    Each tensor is moved by its own scale, less where it contributes more than the median one; with ``most``, up to so
    many times its scale where it contributes less than the strongest of all.
    """
    every = group if most == 1.0 else range(len(base.points))
    positive = [base.strength(at) for at in every if base.strength(at) > 0]
    usual = float(np.median(positive) if most == 1.0 else max(positive)) if positive else 0.0
    shares = {at: min(most, usual / base.strength(at)) if base.strength(at) > 0 else 1.0 for at in group}
    return Company(base, {at: base.scales[at] * share for at, share in shares.items()})


def relative_to(base: Base, at: int, caught: float, contribution: float, reference: float) -> float:
    """An error that is caught, relative to what the tensor contributes, or to the ``reference`` where its gradient is
    zero.
    """
    rounding = float(np.linalg.norm(base.gradient_errors[at]))
    size = reference if base.size(at) <= ZERO_WITHIN * rounding else contribution
    if size == 0:  # function and gradient are zero: so is what could be missing, but for numbers that are too small
        return 0.0 if caught < _NOTHING or not base.gradients[at].any() else math.inf
    return caught / size
