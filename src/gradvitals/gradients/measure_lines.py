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
from gradvitals.gradients.measure_base import Base, moved_value
from gradvitals.maths.differences import Ladder, extrapolate, kink_errors, ladder_for, rounding

#: A line is suspect when what is missing exceeds this many standard deviations of its error bar. Together with the
#: confirmation on two other ladders it keeps the false alarms of ``benchmarks/gradients_layers.py`` at zero.
SUSPECT_AT = 5.0
#: The ladders on which a suspicion must repeat itself: other steps meet other rounding errors.
CONFIRM_AT = (0.75, 0.59)
#: Kinks are looked for above this many standard deviations of an output's rounding.
_KINK_NOISE = 4.0


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


def measure_line(
    problem: Problem,
    base: Base,
    direction: Mapping[int, Array],
    ladder: Ladder | None = None,
    *,
    enough: float = 0.0,
) -> Line:
    """Measure the slope of ⟨cotangent, F⟩ along a direction and compare it with the claimed gradient.

    Parameters
    ----------
    direction : mapping of tensor number to flat array
        Displacement of each moved tensor at step 1.
    ladder : Ladder, optional
        The steps; by the coarsest dtype when not given.
    enough : float
        Where the middle of the ladder shows that no more than this is missing, the other steps are spared.

    """
    ladder = ladder or ladder_for(base.roundoff)
    start, stop = ladder.middle
    steps = ladder.steps
    samples = _samples(problem, base, direction, steps[start:stop])
    if enough > 0:
        line = _read(problem, base, direction, steps[start:stop], samples)
        if max(line.bar, abs(line.missing)) <= enough:
            return replace(line, rung=line.rung + start)
    coarse = _samples(problem, base, direction, steps[:start])
    fine = _samples(problem, base, direction, steps[stop:])
    return _read(problem, base, direction, steps, np.hstack([coarse, samples, fine]))


def _samples(problem: Problem, base: Base, direction: Mapping[int, Array], steps: Array) -> Array:
    """Of each step the odd part, the even part, the predicted slope, and the outputs' own even parts: (4, K)."""
    weight = np.abs(base.cotangent)
    noise = _output_noise(problem, base)
    samples = np.empty((4, len(steps)))
    ratio = steps[0] / steps[1] if len(steps) > 1 else 1.0
    coarser: Array | None = None
    for rung, step in enumerate(steps):
        (ahead, gone), (behind, come) = (
            moved_value(problem, base, direction, sign * float(step)) for sign in (1.0, -1.0)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            odd, bend = ahead - behind, ahead + behind - 2 * base.value
            gap = np.fmax(np.abs(bend) - _KINK_NOISE * math.sqrt(6) * noise, 0.0) / (2 * step)
            # Curvature makes a gap as well, in proportion to the step; a kink's stays the same.
            kink = gap if coarser is None else np.fmax(ratio * gap - coarser, 0.0) / (ratio - 1)
            coarser = gap
            samples[:, rung] = (
                base.cotangent @ odd,
                base.cotangent @ bend,
                (gone - come) / (2 * step),
                weight @ kink,
            )
    return samples


def _read(problem: Problem, base: Base, direction: Mapping[int, Array], steps: Array, samples: Array) -> Line:
    """What the samples at some steps say of a line."""
    odd, even, predicted, gap = samples
    with np.errstate(invalid="ignore"):
        quotients = (odd / (2 * steps) - predicted)[:, None]
    noise = np.array([max(float(np.linalg.norm(base.cotangent * _output_noise(problem, base))), base.noise)])
    slope = extrapolate(quotients, steps, noise, kink_errors(even[:, None], steps, noise))
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


def _output_noise(problem: Problem, base: Base) -> Array:
    """Each output's rounding, and how much it differed when asked again, of shape (M,)."""
    return np.hypot(rounding(base.value, 1.0) * problem.output_roundoff, base.repeat_noise)


def confirmed(problem: Problem, base: Base, line: Line, material: float) -> bool:
    """Whether a suspicion repeats itself, by about the same amount, on two other ladders."""
    if base.in_stairs and line.analytic == 0:
        return False  # stairs have slope zero almost everywhere, which may be what is claimed (round, floor)
    doubts = base.gradient_doubts or base.gradient_errors
    doubt = sum(float(np.sum((doubts[at] * u) ** 2)) for at, u in line.direction.items())
    if abs(line.missing) <= max(SUSPECT_AT * math.sqrt(doubt), line.bar):
        return False  # at a neighbour, one unit in the last place away, the gradient differs by as much
    ladder = ladder_for(base.roundoff)
    for factor in CONFIRM_AT:
        again = measure_line(problem, base, line.direction, ladder.scaled(factor))
        agree = abs(again.missing - line.missing) <= 0.5 * abs(line.missing) + SUSPECT_AT * (line.error + again.error)
        if not (again.suspect(material) and agree):
            return False
    return True
