"""What the claimed gradients within a step say of a slope that was measured by it.

A difference across a step is the mean slope within it. Where the function bends there in ways that no error bar sees
(many kinks, each too small beside the noise), the claimed gradients at points within bend with it, and their mean is
what was measured; a wrong formula is wrong there as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_rays import cast
from gradvitals.maths.differences import ladder_for

#: The mean is taken over so many pairs of points, one on either side.
_PAIRS = 8
#: These pairs are looked at first: where none of them differs by this share of what is missing, the claim is steady.
_FIRST, _STEADY = (7, 3, 1), 0.25
#: The claims at the point, on both sides next to it and within: their roundings together, in those of one.
_CLAIMS = math.sqrt(1 + 1 / 2 + 1 / (2 * _PAIRS))
#: The exactness of a float64 gradient, whose formula may have been asked for in float64.
_EXACT = 1e-12


@dataclass(frozen=True, slots=True)
class Within:
    """What is missing across one step, beside the mean of the claimed gradients within, and its standard deviation.

    ``noise`` is the part of it that is the function's noise and the claims' rounding.
    """

    missing: float
    error: float
    noise: float


def measure_within(
    problem: Problem, base: Base, direction: Mapping[int, Array], step: float, missing: float
) -> Within | None:
    """Compare the difference across a step with the claimed gradients within.

    Parameters
    ----------
    direction : mapping of tensor number to flat array
    step : float
        One of the ladder's, to both sides.
    missing : float
        What seems to be missing along the direction, at the point itself.

    Returns
    -------
    Within or None
        None where the claimed gradients hardly change within the step, or can't be had there: then the difference
        speaks of the point itself.

    """
    places = (np.arange(_PAIRS) + 0.5) / _PAIRS
    nearest = _mean_claim(problem, base, direction, float(ladder_for(base.roundoff).steps[-1]))
    bends: dict[int, float] = {}
    for pair in (*_FIRST, *range(_PAIRS)):
        if pair in bends:
            continue
        bends[pair] = _mean_claim(problem, base, direction, step * float(places[pair])) - nearest
        if not math.isfinite(bends[pair]):
            return None
        if len(bends) == len(_FIRST) and max(map(abs, bends.values())) <= _STEADY * abs(missing):
            return None
    (ray,) = cast(problem, base, [direction], [np.array([step])])
    seen = base.cotangent != 0
    with np.errstate(invalid="ignore", over="ignore"):
        measured = float(base.cotangent[seen] @ (ray.ahead - ray.behind)[0, seen]) / (2 * step)
        noise = float(np.linalg.norm((base.cotangent * ray.noise(base)[0])[seen])) / (math.sqrt(2) * step)
    if not math.isfinite(measured):
        return None
    analytic = sum(float(base.gradients[at] @ u) for at, u in direction.items())
    bent = np.array([bends[pair] for pair in range(_PAIRS)])
    own = _CLAIMS * math.sqrt(sum(float(np.sum((base.gradient_errors[at] * u) ** 2)) for at, u in direction.items()))
    noise = math.hypot(noise, own)
    return Within(measured - analytic - float(bent.mean()), math.hypot(noise, _error_of_mean(bent)), noise)


def _mean_claim(problem: Problem, base: Base, direction: Mapping[int, Array], distance: float) -> float:
    """The slope that the claimed gradients predict, so far away on both sides; NaN where there is none."""
    found = 0.0
    for signed in (distance, -distance):
        moved = {at: base.points[at] + signed * u for at, u in direction.items()}
        gradients = problem.wide_gradient(base.cotangent, moved) if base.gradient_roundoff <= _EXACT else None
        gradients = gradients or problem.gradient(base.cotangent, moved)
        values = [(gradients[at].value, u) for at, u in direction.items()]
        found += sum(math.nan if value is None else float(value @ u) for value, u in values)
    return found / 2


def _error_of_mean(bends: Array) -> float:
    """Standard deviation of the mean of values at the middles of equal cells.

    A jump lies anywhere in its cell: of a height J it puts the mean of n cells off by J/n times a uniform error. What
    is smooth hardly has second differences, in which a jump shows up twice.
    """
    jumps = np.diff(bends, n=2)
    squares = float(bends[0] ** 2 + np.sum(jumps**2) / 2 + jumps[0] ** 2 / 2 + jumps[-1] ** 2 / 2)
    return math.sqrt(squares / 12) / bends.size
