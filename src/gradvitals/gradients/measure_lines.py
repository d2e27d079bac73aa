"""The claimed gradient against the measured slope, along one line through the point.

Everything that the check knows comes from here: a random direction through all tensors, through one tensor, or along
a single entry, is always one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.maths.differences import NEARBY, Ladder, extrapolate, kink_errors, ladder_for, noise_from, rounding
from gradvitals.vocabulary.errors import ModelError

#: A line is suspect when what is missing exceeds this many standard deviations of its error bar. Together with the
#: confirmation on two other ladders it keeps the false alarms of ``benchmarks/gradients_layers.py`` at zero.
SUSPECT_AT = 5.0
#: Backward passes are computed, not exact: what is missing must exceed this share of the gradient, by unit roundoff
#: of the coarsest dtype.
MATERIAL = ((1e-12, 1e-7), (1e-6, 1e-4), (1e-3, 2e-3), (1.0, 1.6e-2))
#: The ladders on which a suspicion must repeat itself: other steps meet other rounding errors.
CONFIRM_AT = (0.75, 0.59)
#: Kinks are looked for above this many standard deviations of an output's rounding.
_KINK_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class Base:
    """What all lines share: the point, the function's value there, and the gradient to be judged.

    ``roundoff`` is the evaluations' unit roundoff, ``gradient_roundoff`` the backward pass's; ``noise``
    is that of ⟨cotangent, F⟩ nearby, ``repeat_noise`` each output's difference when asked again. ``points`` and
    ``gradients`` hold a flat array per tensor (zeros where there is no gradient), ``gradient_errors`` the gradient's
    own rounding.
    """

    points: tuple[Array, ...]
    value: Array
    repeat_noise: Array
    noise: float
    cotangent: Array
    gradients: tuple[Array, ...]
    gradient_errors: tuple[Array, ...]
    scales: tuple[float, ...]
    roundoff: float
    gradient_roundoff: float

    @property
    def material(self) -> float:
        """The share of the gradient below which a difference is the backward pass's own rounding."""
        return next(share for bound, share in MATERIAL if self.gradient_roundoff < bound)

    def strength(self, tensor: int) -> float:
        """Standard deviation of the claimed slope along a random direction of the tensor's own scale."""
        return self.scales[tensor] * float(np.linalg.norm(self.gradients[tensor]))


@dataclass(frozen=True, slots=True)
class Line:
    """The outcome along one direction.

    Attributes
    ----------
    direction : mapping of tensor number to array
    analytic : float
        The slope that the claimed gradient predicts.
    missing : float
        Measured slope less the predicted one.
    error : float
        Its standard deviation.
    noise : float
        The part of ``error`` that is the function's own noise: no other direction or step can remove it.
    kinks : float
        The part of ``error`` that is due to kinks nearby.
    slack : float
        How much a kink exactly at the point can explain: there any sub-gradient is right.
    rung : int
        The rung of the ladder that decided.

    """

    direction: Mapping[int, Array]
    analytic: float
    missing: float
    error: float
    noise: float
    kinks: float
    slack: float
    rung: int

    @property
    def numeric(self) -> float:
        """The measured slope."""
        return self.analytic + self.missing

    def widened(self, error: float) -> Line:
        """The same line with an independent error more."""
        return replace(self, error=math.hypot(self.error, error))

    @property
    def bar(self) -> float:
        """What must be exceeded to be suspect."""
        return SUSPECT_AT * self.error + self.slack

    def suspect(self, material: float) -> bool:
        """Whether the gradient is missing more than the bar and more than a material amount (both absolute)."""
        return math.isfinite(self.missing) and abs(self.missing) > max(self.bar, float(material))


def measure_line(problem: Problem, base: Base, direction: Mapping[int, Array], ladder: Ladder | None = None) -> Line:
    """Measure the slope of ⟨cotangent, F⟩ along a direction and compare it with the claimed gradient.

    Parameters
    ----------
    direction : mapping of tensor number to flat array
        Displacement of each moved tensor at step 1.
    ladder : Ladder, optional
        The steps; by the coarsest dtype when not given.

    """
    ladder = ladder or ladder_for(base.roundoff)
    steps = ladder.steps
    plus, minus = np.empty((2, len(steps)))
    even, gap = np.empty((2, len(steps)))
    predicted = np.empty(len(steps))
    weight = np.abs(base.cotangent)
    centre = float(base.cotangent @ base.value)
    noise = np.hypot(rounding(base.value, 1.0) * problem.output_roundoff, base.repeat_noise)
    for rung, step in enumerate(steps):
        (ahead, gone), (behind, come) = (
            _moved_value(problem, base, direction, sign * float(step)) for sign in (1.0, -1.0)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            plus[rung], minus[rung] = base.cotangent @ ahead, base.cotangent @ behind
            predicted[rung] = (gone - come) / (2 * step)
            bend = np.abs(ahead + behind - 2 * base.value)
            gap[rung] = weight @ np.fmax(bend - _KINK_NOISE * math.sqrt(6) * noise, 0.0) / (2 * step)
            even[rung] = plus[rung] + minus[rung] - 2 * centre
    with np.errstate(invalid="ignore"):
        quotients = ((plus - minus) / (2 * steps) - predicted)[:, None]
    total_noise = np.array([max(float(np.linalg.norm(base.cotangent * noise)), base.noise)])
    slope = extrapolate(quotients, steps, total_noise, kink_errors(even[:, None], steps, total_noise))
    own = math.sqrt(sum(float(np.sum((base.gradient_errors[at] * u) ** 2)) for at, u in direction.items()))
    finite = gap[np.isfinite(gap)]
    return Line(
        direction=direction,
        analytic=sum(float(base.gradients[at] @ u) for at, u in direction.items()),
        missing=float(slope.value[0]),
        error=math.hypot(float(slope.error[0]), own),
        noise=float(slope.noise[0]),
        kinks=float(slope.kinks[0]),
        slack=float(finite.min()) if finite.size else math.inf,
        rung=int(slope.rung[0]),
    )


def noise_along(problem: Problem, base: Base, direction: Mapping[int, Array]) -> float:
    """Noise of ⟨cotangent, F⟩, from values so close to one another along a direction that nothing else is left."""
    spacing = ladder_for(base.roundoff).spacing
    values = []
    for step in NEARBY:
        value, gone = _moved_value(problem, base, direction, step * spacing)
        values.append(float(base.cotangent @ value) - gone)
    return noise_from(np.array(values))


def confirmed(problem: Problem, base: Base, line: Line, material: float) -> bool:
    """Whether a suspicion repeats itself, by about the same amount, on two other ladders."""
    ladder = ladder_for(base.roundoff)
    for factor in CONFIRM_AT:
        again = measure_line(problem, base, line.direction, ladder.scaled(factor))
        agree = abs(again.missing - line.missing) <= 0.5 * abs(line.missing) + SUSPECT_AT * (line.error + again.error)
        if not (again.suspect(material) and agree):
            return False
    return True


def _moved_value(problem: Problem, base: Base, direction: Mapping[int, Array], step: float) -> tuple[Array, float]:
    """F at a step along the direction, and how far the claimed gradient says that ⟨cotangent, F⟩ has gone.

    The displacement is the one that the tensor's dtype really made, so that rounding the point is no error of the
    slope.
    """
    moved = {at: problem.rounded(at, base.points[at] + step * u) for at, u in direction.items()}
    gone = sum(float(base.gradients[at] @ (there - base.points[at])) for at, there in moved.items())
    try:
        value = problem.value(moved)
    except (
        ModelError
    ):  # the step left the function's domain (a matrix is no longer positive definite): a shorter one may not
        value = np.full_like(base.value, np.nan)
    if value.shape != base.value.shape:  # the number of outputs depends on the values: nothing to compare
        value = np.full_like(base.value, np.nan)
    return value, gone
