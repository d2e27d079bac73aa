"""The claimed gradient against the measured slope, along one line through the point.

Everything that the check knows comes from here: a random direction through all tensors, through one tensor, or along
a single entry, is always one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_kinks import without
from gradvitals.gradients.measure_rays import Ray, cast, exact, side_by_side
from gradvitals.gradients.measure_within import measure_within
from gradvitals.maths.differences import Ladder, ladder_for

#: A line is suspect when what is missing exceeds this many standard deviations of its error bar. Together with the
#: confirmation on two other ladders it keeps the false alarms of ``benchmarks/gradients_layers.py`` at zero.
SUSPECT_AT = 5.0
#: In 16-bit formats the error bars are mostly the gradient's own rounding, which is seen well; and directions are dear.
_SUSPECT_AT_16_BIT = 4.0
#: How many of the shortest steps have to confirm a suspicion in a 16-bit format.
_SHORT_STEPS = 3
#: There so many standard deviations in the same direction will do, on both ladders: short steps are noisy.
_SHOWS_AT = 2.5
#: So many do in any format.
_MANY_STEPS = 6
#: A part of an error that makes up most of it.
_MOSTLY = 0.7
#: Unit roundoff from which a format counts as 16-bit.
COARSE = 1e-4
#: The ladders on which a suspicion must repeat itself begin at these multiples of the finest step: other steps meet
#: other rounding errors.
CONFIRM_FROM = (3, 5)
#: In float64 two steps mostly do, so short that kinks hardly lie within. There a smooth function leaves a relative
#: error of 1e-9 (it is never taken for less than ``_ROUGHLY``), and one that is computed in float32 inside one of 0.1:
#: more than ``CLEAR`` isn't clear.
EXACT, SHORT, CLEAR = 1e-12, ladder_for(2.0**-53).part(8, 2), 1e-6
_ROUGHLY = 1e-8
#: Outputs of several rays that are worked out in one go: of few, NumPy's calls take longer than its work.
_AT_ONCE = 4096
#: What two steps show clearly is confirmed by two others on each of two other ladders.
SHORT_AGAIN = tuple(ladder_for(2.0**-53).multiple(multiple).part(8, 2) for multiple in CONFIRM_FROM)


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
    own : float
        The part that is the claimed gradient's own rounding.
    slack : float
        How much a kink exactly at the point can explain: there any sub-gradient is right.
    rung : int
        The rung of the precision's whole ladder that decided.
    suspect_at : float
        How many standard deviations make it suspect.

    """

    direction: Mapping[int, Array]
    analytic: float
    missing: float
    error: float
    noise: float
    kinks: float
    own: float
    slack: float
    rung: int
    suspect_at: float = SUSPECT_AT

    @property
    def numeric(self) -> float:
        """The measured slope."""
        return self.analytic + self.missing

    def widened(self, error: float) -> Line:
        """The same line with an independent error more."""
        known = (self.noise, self.kinks, self.own, self.slack, self.rung, self.suspect_at)
        return Line(self.direction, self.analytic, self.missing, math.hypot(self.error, error), *known)

    @property
    def bar(self) -> float:
        """What must be exceeded to be suspect."""
        return self.suspect_at * self.error + self.slack

    @property
    def is_clear(self) -> bool:
        """Whether the measured slope's own error is next to nothing beside it."""
        error = math.sqrt(max(self.error**2 - self.own**2, 0.0))
        return self.suspect_at * error + self.slack <= CLEAR * max(abs(self.analytic), abs(self.numeric))

    @property
    def bias(self) -> float:
        """What truncation and kinks may add, always in the same direction."""
        return math.sqrt(max(self.error**2 - self.noise**2 - self.own**2, 0.0)) + self.slack

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
        The steps; by the coarsest dtype when not given, in float64 two of them where these do.
    enough : float
        Where the middle of the ladder shows that no more than this is missing, the other steps are spared.

    """
    if ladder is None and base.roundoff <= EXACT:
        (line,) = measure_shortly(problem, base, [direction])
        if line.is_clear:
            return line
    ((_, line),) = measure_rays(problem, base, [direction], ladder, enough=enough)
    return line


def measure_shortly(problem: Problem, base: Base, directions: Sequence[Mapping[int, Array]]) -> list[Line]:
    """Lines by two short steps, in float64; they tell noise only roughly, and their errors allow for that."""
    lines = [line for _, line in measure_rays(problem, base, directions, SHORT)]
    return [line.widened(_ROUGHLY * max(abs(line.analytic), abs(line.numeric))) for line in lines]


def measure_rays(
    problem: Problem,
    base: Base,
    directions: Sequence[Mapping[int, Array]],
    ladder: Ladder | None = None,
    *,
    enough: float = 0.0,
) -> list[tuple[Ray, Line]]:
    """Evaluate F along directions, the middle of all ladders in one call, see :func:`measure_line`."""
    whole = ladder_for(base.roundoff)
    ladder = ladder or whole
    start, stop = ladder.middle if enough > 0 else (0, ladder.rungs)
    steps = ladder.steps
    exactly = [exact(problem, base, direction, whole) for direction in directions]
    rays = cast(problem, base, exactly, [steps[start:stop]] * len(exactly))
    measured = []
    for seen, told in zip(rays, _read_together(base, rays), strict=True):
        ray, line = seen, told
        if stop - start < len(steps) and max(line.bar, abs(line.missing)) > enough:
            # Where rounding is most of the error, smaller steps can only make it worse.
            is_rounding = math.hypot(line.noise, line.own) > _MOSTLY * line.error and not line.suspect(enough)
            more = [steps[:start], steps[:0] if is_rounding else steps[stop:]]
            if more[0].size or more[1].size:
                ray = ray.extended(*cast(problem, base, [ray.direction] * 2, more))
                line = read(base, ray)
        measured.append((ray, line))
    return measured


def read(base: Base, ray: Ray) -> Line:
    """What a ray says of the claimed gradient."""
    (line,) = _read_together(base, [ray])
    return line


def _read_together(base: Base, rays: Sequence[Ray]) -> list[Line]:
    """What rays of the same steps say; several of few outputs each are worked out in one go."""
    count = max(1, _AT_ONCE // max(base.value.size, 1))
    return [line for start in range(0, len(rays), count) for line in _read_all(base, rays[start : start + count])]


def _read_all(base: Base, rays: Sequence[Ray]) -> list[Line]:
    joined, noise = side_by_side(base, rays)
    slopes, gaps = joined.slopes(noise), joined.gaps(noise)
    weight, whole, size = np.abs(base.cotangent), ladder_for(base.roundoff), base.value.size
    seen = weight > 0
    suspect_at = SUSPECT_AT if base.gradient_roundoff < COARSE else _SUSPECT_AT_16_BIT
    lines = []
    for number, ray in enumerate(rays):
        own_ones = slice(number * size, (number + 1) * size)
        value, error, noises, kinks, rung = (
            array[own_ones][seen] for array in (slopes.value, slopes.error, slopes.noise, slopes.kinks, slopes.rung)
        )
        weights = weight[seen]
        analytic = sum(float(base.gradients[at] @ u) for at, u in ray.direction.items())
        roundings = [base.gradient_errors[at] * u for at, u in ray.direction.items()]
        own = math.sqrt(sum(float(e @ e) for e in roundings))
        with np.errstate(invalid="ignore"):
            slack = gaps[:, own_ones][:, seen] @ weights
            numeric = float(base.cotangent[seen] @ value)
        finite = slack[np.isfinite(slack)]
        rungs = np.sort(rung[error > 0])
        middle = int(rungs[(rungs.size - 1) // 2] + rungs[rungs.size // 2]) // 2 if rungs.size else 0
        line = Line(
            direction=ray.direction,
            analytic=analytic,
            missing=numeric - analytic,
            error=math.hypot(float(np.linalg.norm(weights * error)), own),
            noise=float(np.linalg.norm(weights * noises)),
            kinks=float(np.linalg.norm(weights * kinks)),
            own=own,
            slack=float(finite.min()) if finite.size else math.inf,
            rung=round(math.log(whole.first / float(ray.steps[middle])) / math.log(whole.ratio)),
            suspect_at=suspect_at,
        )
        lines.append(line)
    return lines


def excused(roundoff: float) -> frozenset[str]:
    """What float64 may say of a gradient that seems wrong in a format, so that it isn't.

    Jumps may lie closer than a 16-bit format's steps: there what is wrong must be so in float64 as well.
    """
    return frozenset({"right", "unresolved"} if roundoff >= COARSE else {"right"})


def _without_jumps(problem: Problem, base: Base, ray: Ray) -> Base:
    """The base without the outputs that have no slope along a ray."""
    slopes = ray.slopes(ray.noise(base))
    cotangent, gradients = without(problem, base, ~(np.isfinite(slopes.value) & np.isfinite(slopes.error)))
    flat = (
        np.zeros_like(old) if g.value is None else g.value for g, old in zip(gradients, base.gradients, strict=True)
    )
    return replace(base, cotangent=cotangent, gradients=tuple(flat))


def confirmed(
    problem: Problem, base: Base, line: Line, material: float, ladders: Sequence[Ladder] | None = None
) -> bool:
    """Whether a suspicion repeats itself, by about the same amount, on other ladders (two when none are given), and
    isn't the function's own bend within the step.
    """
    if line.analytic == 0 and (base.in_stairs or base.is_rough(line.numeric)):
        return False  # stairs have slope zero almost everywhere, which may be what is claimed (round, floor)
    if line.numeric == 0 and base.projected_noise == 0 and abs(line.analytic) < base.roundoff:
        return False  # a value that is lost beside 1 has no slope to be seen: the tail of an error function
    doubts = base.gradient_doubts or base.gradient_errors
    doubt = sum(float(np.sum((doubts[at] * u) ** 2)) for at, u in line.direction.items())
    if abs(line.missing) <= max(SUSPECT_AT * math.sqrt(doubt), line.bar):
        return False  # at a neighbour, one unit in the last place away, the gradient differs by as much
    is_coarse = base.gradient_roundoff >= COARSE
    asked = ladders or [ladder_for(base.roundoff).multiple(multiple) for multiple in CONFIRM_FROM]
    told, is_plain = 0, False
    for ladder in asked:
        again, is_part = _again(problem, base, line, ladder.steps, is_coarse=is_coarse)
        agree = is_part or abs(again.missing - line.missing) <= 0.5 * abs(line.missing) + SUSPECT_AT * (
            line.error + again.error
        )
        shows = again.suspect(material)
        if is_coarse:
            enough = max(_SHOWS_AT * again.error + again.slack, material)
            if not is_part and not enough < abs(line.missing):
                continue  # these steps couldn't show it if it were there
            is_plain = is_plain or shows
            shows = again.missing * line.missing > 0 and abs(again.missing) > enough
        if not (shows and agree):
            return False
        told += 1
    return (told == len(asked) or is_plain) and _stands_within(problem, base, line, material)


def _stands_within(problem: Problem, base: Base, line: Line, material: float) -> bool:
    """Whether as much is missing beside the claimed gradients within the step that decided: kinks within, which put all
    ladders off alike, are in these as well.
    """
    whole = ladder_for(base.roundoff)
    within = measure_within(problem, base, line.direction, whole.first * whole.ratio**-line.rung, line.missing)
    if within is None or line.suspect_at * within.noise >= abs(line.missing):
        return True  # or this step alone couldn't show what is missing if it were there
    # By how much is left open: what makes the claim wrong makes it bend wrongly as well.
    is_left = within.missing * line.missing > 0
    return is_left and abs(within.missing) > max(line.suspect_at * within.error, float(material))


def _again(problem: Problem, base: Base, line: Line, steps: Array, *, is_coarse: bool) -> tuple[Line, bool]:
    """A line by other steps, and whether only some of the outputs could be read: those without jumps."""
    longer = steps[:0]
    if is_coarse:  # the long steps of 16-bit formats meet kinks without end: short ones come first
        longer, steps = steps[:-_SHORT_STEPS], steps[-_SHORT_STEPS:]
    elif len(steps) > _MANY_STEPS:  # those around the one that decided, the finest and coarsest add nothing
        first = min(max(line.rung - _MANY_STEPS // 2, 0), len(steps) - _MANY_STEPS)
        steps = steps[first : first + _MANY_STEPS]
    (ray,) = cast(problem, base, [line.direction], [steps])
    again = read(base, ray)
    if longer.size and again.noise > _MOSTLY * again.error:
        ray = ray.extended(*cast(problem, base, [ray.direction] * 2, [longer, longer[:0]]))
        again = read(base, ray)
    if not is_coarse or math.isfinite(again.error) or problem.objective != "random":
        return again, False
    # Of some outputs only as much of what is missing can show as these have of it.
    return read(_without_jumps(problem, base, ray), ray), True


def relative_error_of(lines: Sequence[Line]) -> tuple[float, float]:
    """‖numeric − analytic‖ / (‖numeric‖ + ‖analytic‖) over lines, and the numeric side's own relative error."""
    missing = math.sqrt(sum(line.missing**2 for line in lines))
    size = math.sqrt(sum(line.numeric**2 for line in lines)) + math.sqrt(sum(line.analytic**2 for line in lines))
    error = math.sqrt(sum(line.error**2 for line in lines))
    return (missing / size, error / size) if size else (0.0, 0.0)
