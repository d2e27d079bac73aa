"""Every entry of every tensor: two points each, at one good step; what deviates is looked at again, closely.

The step is chosen on a few entries by noise and truncation. An entry that deviates by more than both can explain is
measured along a whole ladder of steps, like any other line, before it is called wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.frameworks.sweep import EntrySweep, Sweep, Swept
from gradvitals.gradients.counted import Count, Counted
from gradvitals.gradients.measure_base import Base, surroundings
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_lines import SUSPECT_AT, confirmed, measure_line
from gradvitals.gradients.mistakes import recognise
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.maths.differences import MEDIAN_TO_STD

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from gradvitals.frameworks.sweep import Indices

#: Entrances at which the step is chosen, and how many steps are tried there, from the sixth root of the unit roundoff
#: down: a central difference is best near the cube root.
_PROBED, _STEPS, _RATIO = 16, 6, 4.0
#: Truncation is seen at few entrances: of all of them it is taken for so many times as much.
_DISTRUST = 3.0
#: Numbers that are held at once.
_HELD = 2**23
#: Of the entries that deviate, so many of the worst, and so many more at random, are measured along whole ladders.
_WORST, _OTHERS = 24, 8
#: Single entries along which two ways to a tensor are compared, besides a random direction.
_COMPARED = 2
#: Standard deviations within which the two must agree.
_AGREE = 6.0
#: 99.5 % of normal numbers are smaller than so many standard deviations.
_NEARLY_ALL = 2.58


@dataclass(frozen=True, slots=True)
class Census:
    """Slopes of ⟨cotangent, F⟩ along all entries of a tensor and their standard deviations, each of shape (size,)."""

    numeric: Array
    error: Array


def measure_exhaustively(
    problem: Problem,
    measured: Measurement,
    *,
    sensitivity: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure every entry of every tensor, besides what was measured already; in float64 where the model can.

    Parameters
    ----------
    problem : Problem
    measured : Measurement
        Of the same problem.
    sensitivity : float
        The relative error that must be resolved.
    seed : int
        Of the choice of entries that are probed.
    progress : callable, optional
        Called with (evaluations done, evaluations expected).

    """
    if measured.base is None:
        return measured
    where = problem.shadow() or problem
    examination = _Examination(where, measured, np.random.default_rng(seed), progress)
    judged = {at for at, gradient in enumerate(measured.gradients) if _can_be_judged(gradient)}
    found: dict[int, Census] = {}
    for sweep in where.sweeps() if isinstance(where, Swept) else ():
        if judged.intersection(sweep.tensors):
            taken = examination.census(sweep)
            found |= {at: census for at, census in taken.items() if examination.holds(at, census)}
    for at in sorted(judged - set(found)):
        found |= examination.census(EntrySweep(where, at, examination.base.scales[at]))
    outcomes = tuple(
        examination.outcome(at, found[at], outcome, sensitivity) if at in judged else outcome
        for at, outcome in enumerate(measured.outcomes)
    )
    evaluations = measured.evaluations + examination.evaluations
    return replace(measured, outcomes=outcomes, evaluations=evaluations, evaluation=where.evaluation)


def _can_be_judged(gradient: Gradient) -> bool:
    if gradient.got_shape is not None or gradient.stopped:
        return False
    return gradient.value is None or bool(np.isfinite(gradient.value).all())


class _Examination:
    """Takes the census of tensor after tensor."""

    def __init__(
        self,
        problem: Problem,
        measured: Measurement,
        rng: np.random.Generator,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._problem = Counted(problem, Count())
        self._rng = rng
        self._progress = progress
        self._before = measured.evaluations
        self._expected = measured.evaluations + 2 * sum(tensor.size for tensor in problem.tensors)
        self.base = self._base(measured.base)

    @property
    def evaluations(self) -> int:
        return self._problem.count.evaluations

    def _base(self, base: Base) -> Base:
        """What is known at the point, of the evaluations that are made now."""
        problem = self._problem
        if base.roundoff == problem.roundoff:
            return base
        value, again = problem.value({}), problem.value({})
        around = surroundings(problem, value, np.abs(again - value), self._rng)
        return replace(base, value=value, noise=around.noise, roundoff=problem.roundoff)

    def census(self, sweep: Sweep) -> dict[int, Census]:
        """Slopes along all entrances of a sweep, and what they say of every entry of its tensors."""
        step, truncation = self._step(sweep)
        displacements = sweep.displacements(step)
        slopes = self._slopes(sweep, np.arange(sweep.size), displacements)
        errors = np.hypot(self._noise(displacements), _DISTRUST * truncation)
        numeric, deviations = sweep.entries(slopes), sweep.errors(errors)
        return {at: Census(numeric[at], deviations[at]) for at in sweep.tensors}

    def _step(self, sweep: Sweep) -> tuple[float, float]:
        """The step at which noise and truncation together are smallest, and the truncation there."""
        probed = self._rng.choice(sweep.size, min(_PROBED, sweep.size), replace=False)
        steps = 2.0 ** round(math.log2(self.base.roundoff) / 6) * _RATIO ** -np.arange(_STEPS)
        far = [sweep.displacements(float(step))[probed] for step in steps]
        slopes = self._slopes(sweep, np.tile(probed, _STEPS), np.concatenate(far)).reshape(_STEPS, -1)
        noise = np.array([float(np.median(self._noise(displacements))) for displacements in far])
        moved = np.abs(np.diff(slopes, axis=0)) * _RATIO**2 / (_RATIO**2 - 1)
        typical = MEDIAN_TO_STD * np.median(np.where(np.isfinite(moved), moved, np.inf), axis=1)
        truncation = np.sqrt(np.fmax(typical**2 - noise[:-1] ** 2 - noise[1:] ** 2, 0.0))
        best = int(np.argmin(np.hypot(truncation, noise[:-1])))
        return float(steps[best]), float(truncation[best])

    def _noise(self, displacements: Array) -> Array:
        """The function's noise in a central difference."""
        return self.base.projected_noise / (math.sqrt(2) * displacements)

    def _slopes(self, sweep: Sweep, entrances: Indices, displacements: Array) -> Array:
        """Central differences of ⟨cotangent, F⟩, of shape (K,)."""
        seen = self.base.cotangent != 0
        weight = self.base.cotangent[seen]
        block = max(1, _HELD // (2 * self.base.value.size))
        found = []
        for start in range(0, len(entrances), block):
            some, far = entrances[start : start + block], displacements[start : start + block]
            values = sweep.values(np.concatenate([some, some]), np.concatenate([far, -far]))
            self._problem.count.evaluations += len(values)
            if self._progress is not None:
                done = self._before + self.evaluations
                self._progress(done, max(self._expected, done + 1))
            with np.errstate(invalid="ignore"):
                found.append((values[: len(some), seen] - values[len(some) :, seen]) @ weight / (2 * far))
        return np.concatenate(found)

    def holds(self, at: int, census: Census) -> bool:
        """Whether moving the tensor itself shows the same slopes: along a random direction, and along single entries.

        A weight that is used in a second place, or a layer that isn't what it seems, comes out here.
        """
        base, size = self.base, census.numeric.size
        singles = [np.eye(1, size, int(self._rng.integers(size)))[0] for _ in range(_COMPARED)]
        for direction in [self._rng.standard_normal(size), *singles]:
            line = measure_line(self._problem, base, {at: base.scales[at] * direction})
            moved = line.direction[at] != 0
            u, gradient = line.direction[at][moved], base.gradients[at][moved]
            missing = float((census.numeric[moved] - gradient) @ u)
            deviation = math.hypot(line.error, float(np.linalg.norm(census.error[moved] * u)))
            allowed = _AGREE * deviation + line.slack + base.material * float(np.linalg.norm(gradient * u))
            if not abs(missing - line.missing) <= allowed:
                return False
        return True

    def outcome(self, at: int, census: Census, before: Outcome, sensitivity: float) -> Outcome:
        """What all entries of a tensor say of it, besides what was known before."""
        base, gradient, own = self.base, self.base.gradients[at], self.base.gradient_errors[at]
        numeric, error = census.numeric.copy(), census.error.copy()
        rms = float(np.sqrt(np.mean(np.square(gradient))))
        material = base.material * np.fmax(rms, np.abs(gradient))
        bars = np.fmax(SUSPECT_AT * np.hypot(error, own), material)
        with np.errstate(invalid="ignore"):
            excess = np.nan_to_num(np.abs(numeric - gradient) / bars, nan=np.inf)
        deviating = np.flatnonzero(excess > 1)
        deviating = deviating[np.argsort(-excess[deviating], kind="stable")]
        chosen = [*deviating[:_WORST], *self._rng.permutation(deviating[_WORST:])[:_OTHERS]]
        entries = [self._closely(at, int(index), material[index]) for index in chosen]
        for entry in entries:
            numeric[entry.index], error[entry.index] = entry.numeric, entry.error
            bars[entry.index] = max(entry.line.bar / entry.scale, material[entry.index])
        wrong = sum(entry.wrong for entry in entries)
        # Of those that weren't looked at closely, none counts where one of the others was an accident.
        if wrong == len(entries):
            wrong = len(deviating)
        known = [entry for entry in before.entries if entry.index not in {e.index for e in entries}]
        caught = bars + _NEARLY_ALL * error
        size = float(np.linalg.norm(gradient))
        resolution = min(before.resolution, float(np.linalg.norm(caught)) / size) if size else before.resolution
        status = before.status
        if wrong:
            status = "wrong"
        elif status == "unresolved" and resolution <= sensitivity:
            status = "right"
        missing, both = float(np.linalg.norm(numeric - gradient)), float(np.linalg.norm(numeric)) + size
        mistake = before.mistake
        if status == "wrong" and before.status != "wrong":
            lines = [entry.line for entry in entries]
            mistake = recognise(self._problem.tensors[at], gradient, lines, entries, self._problem.sample_sizes, at)
        return Outcome(
            status,
            relative_error=missing / both if both else 0.0,
            numeric_error=float(np.linalg.norm(np.hypot(error, own))) / both if both else 0.0,
            resolution=resolution,
            entry_resolution=float(caught.max(initial=0.0)) / rms if rms else before.entry_resolution,
            entries=(*entries, *known),
            mistake=mistake,
            checked_count=numeric.size,
            wrong_count=wrong,
        )

    def _closely(self, at: int, index: int, material: float) -> Entry:
        """An entry along a whole ladder."""
        base = self.base
        scale = base.scales[at]
        direction = np.zeros(base.points[at].size)
        direction[index] = scale
        line = measure_line(self._problem, base, {at: direction})
        wrong = line.suspect(material * scale) and confirmed(self._problem, base, line, material * scale)
        return Entry(index, float(line.direction[at][index]), line, wrong)
