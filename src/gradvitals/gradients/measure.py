"""Measure whether the claimed gradient of every tensor is right, wrong or not to be resolved.

All tensors are moved at once, each by as much as makes it contribute alike, along a few random directions. Where
nothing is missing, all of them are right at once. Where something is, the tensors are bisected; tensors too weak to
be resolved in company are examined again without the strong ones. A few entries of every tensor are measured one by
one: they are what a reader compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.gradients.measure_base import ZERO_WITHIN, Base, cotangent_of, measure_base
from gradvitals.gradients.measure_entries import Entry, measure_entries
from gradvitals.gradients.measure_lines import SUSPECT_AT, Line, confirmed, measure_line
from gradvitals.gradients.mistakes import Mistake, recognise
from gradvitals.maths.differences import MEDIAN_TO_STD, ladder_for
from gradvitals.vocabulary.errors import InputError

#: Random directions per group of tensors. With normal directions what is missing is N(0, ‖error‖²) whatever the
#: error's pattern, so that the chance of overlooking it can be computed: see ``detectable``.
DIRECTIONS = 6
#: The chance of overlooking an error as large as the stated resolution.
OVERLOOK = 0.005
#: A line has shown enough when its bar is this share of what is asked for.
_WELL_WITHIN = 0.1
#: Below this a slope is nothing, whatever it is compared with.
_NOTHING = 1e-30
#: Normal directions are cut here, so that no entry is moved absurdly far.
_FARTHEST = 4.0
#: Relative to the widest of several bars, smaller errors aren't looked for.
_LEAST_DETECTABLE = 1e-15


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one tensor.

    ``status`` is right, wrong or unresolved; ``relative_error`` is over everything measured of this tensor and
    ``numeric_error`` that number's own error; ``resolution`` the relative error (2-norm) that would have been caught
    with 99.5 % probability, ``entry_resolution`` the same for a single entry relative to the tensor's RMS.
    """

    status: str
    relative_error: float
    numeric_error: float
    resolution: float
    entry_resolution: float
    entries: tuple[Entry, ...] = ()
    mistake: Mistake | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything that the rules judge; ``gradients`` as the backward pass gave them, one per tensor."""

    outcomes: tuple[Outcome, ...]
    gradients: tuple[Gradient, ...]
    evaluations: int
    backwards: int
    spread: float = 0.0
    value_finite: bool = True


class _Counted:
    """A problem that counts its evaluations and tells how far the work has come."""

    def __init__(self, problem: Problem, progress: Callable[[int, int], None] | None, expected: int) -> None:
        self._problem = problem
        self._progress = progress
        self._expected = expected
        self.evaluations = 0
        self.backwards = 0
        self.tensors = problem.tensors
        self.sample_sizes = problem.sample_sizes
        self.objective = problem.objective
        self.roundoff = problem.roundoff
        self.point = problem.point
        self.rounded = problem.rounded
        self.representable = problem.representable
        self.evaluation = problem.evaluation
        self.shadow = problem.shadow

    @property
    def output_roundoff(self) -> Array:
        return self._problem.output_roundoff

    def value(self, moved: Mapping[int, Array]) -> Array:
        self.evaluations += 1
        if self._progress is not None:
            self._expected = max(self._expected, self.evaluations + 1)
            self._progress(self.evaluations, self._expected)
        return self._problem.value(moved)

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        self.evaluations += len(points)
        return self._problem.values(points)

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        self.backwards += 1
        return self._problem.gradient(cotangent, moved)


def measure(
    problem: Problem, *, sensitivity: float, seed: int, progress: Callable[[int, int], None] | None = None
) -> Measurement:
    """Measure every tensor of a problem.

    Parameters
    ----------
    problem : Problem
    sensitivity : float
        The relative error that must be resolved.
    seed : int
        Of the directions, the cotangent and the choice of entries.
    progress : callable, optional
        Called with (evaluations done, evaluations expected).

    """
    counted = _Counted(problem, progress, expected=_expected_evaluations(problem))
    rng = np.random.default_rng(seed)
    value, again = counted.value({}), counted.value({})
    if value.size == 0:
        raise InputError("the function's value is empty", "it has no entries", "pass at least one sample")
    cotangent = cotangent_of(counted, value.size, rng)
    gradients = counted.gradient(cotangent)
    size = float(np.linalg.norm(value))
    spread = float(np.linalg.norm(again - value)) / size if size and np.isfinite(size) else 0.0
    if not np.isfinite(value).all():
        nothing = Outcome("unresolved", math.nan, math.nan, math.inf, math.inf)
        outcomes: tuple[Outcome, ...] = (nothing,) * len(problem.tensors)
        return Measurement(outcomes, gradients, counted.evaluations, counted.backwards, value_finite=False)
    base = measure_base(counted, value, np.abs(again - value), cotangent, gradients, rng)
    search = _Search(counted, base, sensitivity, rng)
    judged = [at for at, gradient in enumerate(gradients) if _can_be_judged(gradient)]
    search.examine(judged)
    wrong, unknown = (Outcome(status, math.nan, math.nan, math.nan, math.nan) for status in ("wrong", "unresolved"))
    outcomes = tuple(
        search.outcome(at) if at in judged else (unknown if gradient.stopped else wrong)
        for at, gradient in enumerate(gradients)
    )
    return Measurement(outcomes, gradients, counted.evaluations, counted.backwards, spread)


def _can_be_judged(gradient: Gradient) -> bool:
    """Whether slopes can be compared with it: it came, in shape and finite; or none came, which counts as zero."""
    if gradient.got_shape is not None or gradient.stopped:
        return False
    return gradient.value is None or bool(np.isfinite(gradient.value).all())


class _Search:
    """The examination of groups of tensors; remembers what each tensor's lines showed."""

    def __init__(self, problem: _Counted, base: Base, sensitivity: float, rng: np.random.Generator) -> None:
        self._problem = problem
        self._base = base
        self._sensitivity = sensitivity
        self._rng = rng
        self._status: dict[int, str] = {}
        self._resolution: dict[int, float] = {}
        self._lines: dict[int, list[Line]] = {}
        #: What a gradient that is zero by itself is compared with.
        self._reference = max((base.strength(at) for at in range(len(base.points))), default=0.0) or float(
            np.linalg.norm(base.cotangent * base.value)
        )

    def examine(self, group: Sequence[int]) -> None:
        """Settle every tensor of the group."""
        if not group:
            return
        reach = self._reaches(group)
        lines, wrong = self._ask(group, reach)
        if wrong and len(group) > 1:
            half = len(group) // 2
            self.examine(group[:half])
            self.examine(group[half:])
            return
        material = self._material(group, reach)
        caught = detectable([max(line.bar, material) for line in lines])
        weak = []
        for at in group:
            contribution = reach[at] * self._base.strength(at) / self._base.scales[at]
            self._lines[at] = lines
            self._resolution[at] = self._relative(caught, contribution, at)
            if wrong:
                self._status[at] = "wrong"
            elif self._resolution[at] <= self._sensitivity:
                self._status[at] = "right"
            else:
                self._status[at] = "unresolved"
                if self._resolvable_alone(at):
                    weak.append(at)
        if len(weak) == len(group) > 1:
            half = len(weak) // 2
            self.examine(weak[:half])
            self.examine(weak[half:])
        elif len(group) > 1:
            self.examine(weak)

    def outcome(self, at: int) -> Outcome:
        """What is known of one tensor, with its entries and, where it is wrong, the kind of mistake."""
        base, tensor = self._base, self._problem.tensors[at]
        lines, status = self._lines[at], self._status[at]
        rung = int(np.median([line.rung for line in lines]))
        entries, complete = measure_entries(
            self._problem, base, at, self._rng, rung=rung, wrong=status == "wrong", tensors=len(self._problem.tensors)
        )
        if status != "wrong" and any(entry.wrong for entry in entries):
            status = "wrong"
        own = [line for line in lines if set(line.direction) == {at}]
        measured = [entry.line for entry in entries] if complete or not own else own
        relative_error, numeric_error = _relative_error(measured)
        rms = float(np.linalg.norm(base.gradients[at])) / math.sqrt(max(tensor.size, 1))
        if complete and rms > 0:
            bars = [max(e.line.bar, base.material * abs(e.line.analytic)) / e.scale for e in entries]
            entry_resolution = max(bars, default=math.inf) / rms
        else:
            entry_resolution = self._resolution[at] * math.sqrt(tensor.size)
        mistake = None
        if status == "wrong":
            mistake = recognise(
                tensor, base.gradients[at], [*own, *(e.line for e in entries)], entries, self._problem.sample_sizes, at
            )
        return Outcome(status, relative_error, numeric_error, self._resolution[at], entry_resolution, entries, mistake)

    def _ask(self, group: Sequence[int], reach: Mapping[int, float]) -> tuple[list[Line], bool]:
        """Lines through a group; True with them when one shows, confirmed, that something is missing."""
        material = self._material(group, reach)
        directions = [
            {at: reach[at] * self._normal(self._problem.tensors[at].size) for at in group} for _ in range(DIRECTIONS)
        ]
        usual = float(np.median([reach[at] * float(np.linalg.norm(self._base.gradients[at])) for at in group]))
        enough = max(_WELL_WITHIN * self._sensitivity * usual, material)
        measured = [measure_line(self._problem, self._base, line, enough=enough) for line in directions]
        # Kinks nearby bend one line more and another less: their typical size is what any of the lines may be off by.
        kinks = MEDIAN_TO_STD * float(np.median([line.kinks for line in measured]))
        lines: list[Line] = []
        wrong = False
        for line in (line.widened(kinks) for line in measured):
            if not line.suspect(material):
                lines.append(line)
            elif wrong or confirmed(self._problem, self._base, line, material):
                lines.append(line)
                wrong = True
            else:  # a suspicion that doesn't repeat itself widens the bar, so that the resolution stays true
                lines.append(line.widened(abs(line.missing)))
        return lines, wrong

    def _reaches(self, group: Sequence[int]) -> dict[int, float]:
        """How far each tensor is moved: its own scale, less for those that contribute more than the median one."""
        base = self._base
        strengths = [base.strength(at) for at in group if base.strength(at) > 0]
        usual = float(np.median(strengths)) if strengths else 0.0
        return {
            at: base.scales[at] * (min(1.0, usual / base.strength(at)) if base.strength(at) > 0 else 1.0)
            for at in group
        }

    def _material(self, group: Sequence[int], reach: Mapping[int, float]) -> float:
        base = self._base
        contributions = [reach[at] * float(np.linalg.norm(base.gradients[at])) for at in group]
        return base.material * math.sqrt(sum(c * c for c in contributions))

    def _resolvable_alone(self, at: int) -> bool:
        """Whether, without the others, the function's noise and the gradient's own rounding leave enough to be seen."""
        own = self._base.scales[at] * float(np.linalg.norm(self._base.gradient_errors[at]))
        # Alone it may be moved farther: the noise counts least at the longest step.
        noise = self._base.noise / (math.sqrt(2) * float(ladder_for(self._base.roundoff).steps[0]))
        bars = [SUSPECT_AT * math.hypot(noise, own)] * DIRECTIONS
        resolution = max(self._relative(detectable(bars), self._base.strength(at), at), 2 * self._base.material)
        return resolution <= self._sensitivity

    def _relative(self, caught: float, contribution: float, at: int) -> float:
        """An error that is caught, relative to the tensor's gradient, or to the largest one where this gradient is
        zero.
        """
        own = self._base.gradients[at]
        rounding = float(np.linalg.norm(self._base.gradient_errors[at]))
        is_zero = float(np.linalg.norm(own)) <= ZERO_WITHIN * rounding
        size = self._reference if is_zero else contribution
        if (
            size == 0
        ):  # function and gradient are zero: so is what could be missing, but for numbers too small for a float32
            return 0.0 if caught < _NOTHING else math.inf
        return caught / size

    def _normal(self, size: int) -> Array:
        return np.clip(self._rng.standard_normal(size), -_FARTHEST, _FARTHEST)


def detectable(bars: Sequence[float]) -> float:
    """The size of an error that at least one of several random lines shows with probability 99.5 %.

    Along a normal direction an error of size ρ is missing as N(0, ρ²), and is overlooked when that stays below the
    line's bar. Solves Π P(|N(0, ρ²)| < barₖ) = 0.005 for ρ.

    Parameters
    ----------
    bars : sequence of float
        What must be exceeded along each line.

    Examples
    --------
    >>> round(detectable([1.0] * 6), 2)
    1.84

    """
    finite = [bar for bar in bars if math.isfinite(bar)]
    if not finite:
        return math.inf
    unit = max(finite)
    if unit == 0:
        return 0.0
    relative = [bar / unit for bar in finite]
    low, high = _LEAST_DETECTABLE, 1e6
    for _ in range(80):
        middle = math.sqrt(low * high)
        overlooked = math.prod(math.erf(bar / (middle * math.sqrt(2))) for bar in relative)
        low, high = (middle, high) if overlooked > OVERLOOK else (low, middle)
    return high * unit


def _relative_error(lines: Sequence[Line]) -> tuple[float, float]:
    """‖numeric − analytic‖ / (‖numeric‖ + ‖analytic‖) over lines, and the numeric side's own relative error."""
    missing = math.sqrt(sum(line.missing**2 for line in lines))
    size = math.sqrt(sum(line.numeric**2 for line in lines)) + math.sqrt(sum(line.analytic**2 for line in lines))
    error = math.sqrt(sum(line.error**2 for line in lines))
    return (missing / size, error / size) if size else (0.0, 0.0)


def _expected_evaluations(problem: Problem) -> int:
    """A first guess for the progress bar, for a sound model."""
    return 2 + DIRECTIONS * 2 * 12 + sum(2 * 6 * min(tensor.size, 8) for tensor in problem.tensors)
