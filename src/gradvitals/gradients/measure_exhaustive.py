"""Every entry of every tensor: one or two points each, at one good step; what deviates is looked at again, closely.

The step, and whether points on one side do, is decided on a few entries by noise and truncation. An entry that deviates
by more than both can explain is measured along a whole ladder of steps, like any other line, before it is called wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.frameworks.sweep import EntrySweep, Sweep, Swept
from gradvitals.gradients.counted import Count, Counted
from gradvitals.gradients.measure import in_float64
from gradvitals.gradients.measure_base import ZERO_WITHIN, Base, surroundings
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_lines import SUSPECT_AT, confirmed, measure_line
from gradvitals.gradients.mistakes import recognise
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.maths.differences import MEDIAN_TO_STD

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from gradvitals.frameworks.sweep import Indices

#: Entrances at which the step is chosen.
_PROBED = 12
#: Steps tried there, as powers of two beside the root of the unit roundoff near which a difference is best: the cube
#: root for central ones, the square root for those to one side.
_CENTRAL, _ONE_SIDED = (4, 2, 0, -2), (6, 4, 2)
#: What the truncation of a central difference grows by from one of these steps to the next.
_GROWTH = 16.0
#: Points on one side do where the bars that they leave are typically no more than this share of what must be resolved.
_AMPLE = 0.5
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
    expected = measured.evaluations + sum(tensor.size for tensor in problem.tensors)
    count = Count(expected, progress, evaluations=measured.evaluations)
    examination = _Examination(Counted(where, count), measured.base, sensitivity, np.random.default_rng(seed))
    judged = {at for at, gradient in enumerate(measured.gradients) if _can_be_judged(gradient)}
    found: dict[int, Census] = {}
    for sweep in where.sweeps() if isinstance(where, Swept) else ():
        if judged.intersection(sweep.tensors):
            taken = examination.census(sweep)
            found |= {at: census for at, census in taken.items() if examination.holds(at, census)}
    for at in sorted(judged - set(found)):
        found |= examination.census(EntrySweep(where, at, examination.base.scales[at]))
    outcomes = tuple(
        examination.outcome(at, found[at], outcome) if at in judged else outcome
        for at, outcome in enumerate(measured.outcomes)
    )
    return replace(measured, outcomes=outcomes, evaluations=count.evaluations, evaluation=where.evaluation)


def _can_be_judged(gradient: Gradient) -> bool:
    if gradient.got_shape is not None or gradient.stopped:
        return False
    return gradient.value is None or bool(np.isfinite(gradient.value).all())


class _Examination:
    """Takes the census of tensor after tensor."""

    def __init__(self, problem: Counted, base: Base, sensitivity: float, rng: np.random.Generator) -> None:
        self._problem = problem
        self._sensitivity = sensitivity
        self._rng = rng
        self.base = base
        if base.roundoff != problem.roundoff:  # measured natively before, and in float64 now
            value, again = problem.value({}), problem.value({})
            around = surroundings(problem, value, rng).repeated(again - value)
            self.base = replace(base, **in_float64(problem, value, around))

    def census(self, sweep: Sweep) -> dict[int, Census]:
        """Slopes along all entrances of a sweep, and what they say of every entry of its tensors."""
        probed = self._rng.choice(sweep.size, min(_PROBED, sweep.size), replace=False)
        step, slopes, truncation = self._central(sweep, probed)
        near, difference = self._one_sided(sweep, probed, slopes)
        every, to_one_side = np.arange(sweep.size), False
        if math.isfinite(difference):
            far = sweep.displacements(near)
            errors = np.hypot(2 * self._noise(far), _DISTRUST * difference)
            to_one_side = self._is_ample(sweep.errors(errors))
        if not to_one_side:
            far = sweep.displacements(step)
            errors = np.hypot(self._noise(far), _DISTRUST * truncation)
        numeric = sweep.entries(self._slopes(sweep, every, far, to_one_side=to_one_side))
        deviations = sweep.errors(errors)
        return {at: Census(numeric[at], deviations[at]) for at in sweep.tensors}

    def _is_ample(self, errors: Mapping[int, Array]) -> bool:
        """Whether errors of entries are small beside what must be resolved."""
        return all(
            SUSPECT_AT * float(np.median(error)) <= _AMPLE * self._sensitivity * _rms(self.base.gradients[at])
            for at, error in errors.items()
        )

    def _central(self, sweep: Sweep, probed: Indices) -> tuple[float, Array, float]:
        """The step at which noise and truncation together are smallest, the slopes, and the truncation there."""
        steps = 2.0 ** (round(math.log2(self.base.roundoff) / 3) + np.array(_CENTRAL))
        far = [sweep.displacements(float(step))[probed] for step in steps]
        slopes = self._slopes(sweep, np.tile(probed, len(steps)), np.concatenate(far)).reshape(len(steps), -1)
        noise = np.array([float(np.median(self._noise(displacements))) for displacements in far])
        moved = np.abs(np.diff(slopes, axis=0)) * _GROWTH / (_GROWTH - 1)
        truncation = np.sqrt(np.fmax(_typical(moved) ** 2 - noise[:-1] ** 2 - noise[1:] ** 2, 0.0))
        best = int(np.argmin(np.hypot(truncation, noise[:-1])))
        return float(steps[best]), slopes[best], float(truncation[best])

    def _one_sided(self, sweep: Sweep, probed: Indices, slopes: Array) -> tuple[float, float]:
        """The step at which differences to one side are nearest to these slopes, and how near."""
        steps = 2.0 ** (round(math.log2(self.base.roundoff) / 2) + np.array(_ONE_SIDED))
        far = np.concatenate([sweep.displacements(float(step))[probed] for step in steps])
        found = self._slopes(sweep, np.tile(probed, len(steps)), far, to_one_side=True).reshape(len(steps), -1)
        differences = _typical(np.abs(found - slopes))
        best = int(np.argmin(differences))
        return float(steps[best]), float(differences[best])

    def _noise(self, displacements: Array) -> Array:
        """The function's noise in a central difference; to one side it is twice as much."""
        return self.base.projected_noise / (math.sqrt(2) * displacements)

    def _slopes(self, sweep: Sweep, entrances: Indices, displacements: Array, *, to_one_side: bool = False) -> Array:
        """Differences of ⟨cotangent, F⟩, of shape (K,)."""
        seen = self.base.cotangent != 0
        weight = self.base.cotangent[seen]
        block = max(1, _HELD // (2 * self.base.value.size))
        found = []
        for start in range(0, len(entrances), block):
            some, far = entrances[start : start + block], displacements[start : start + block]
            # To one side, the point itself is evaluated beside the others: it is rounded as they are.
            others = np.zeros(1) if to_one_side else -far
            self._problem.count.add(len(far) + len(others))
            values = sweep.values(np.concatenate([some, some[: len(others)]]), np.concatenate([far, others]))
            ahead, behind = values[: len(far), seen], values[len(far) :, seen]
            with np.errstate(invalid="ignore"):
                found.append((ahead - behind) @ weight / (far if to_one_side else 2 * far))
        return np.concatenate(found)

    def holds(self, at: int, census: Census) -> bool:
        """Whether moving the tensor itself shows the same slopes: along a random direction, and along single entries.

        A weight that is used in a second place, or a layer that isn't what it seems, comes out here.
        """
        base, size = self.base, census.numeric.size
        singles = [np.eye(1, size, int(self._rng.integers(size)))[0] for _ in range(_COMPARED)]
        for direction in [self._rng.standard_normal(size), *singles]:
            displaced = base.scales[at] * direction
            error = _AGREE * float(np.linalg.norm(np.where(direction == 0, 0.0, census.error * displaced)))
            enough = error + base.material * float(np.linalg.norm(base.gradients[at] * displaced))
            line = measure_line(self._problem, base, {at: displaced}, enough=enough)
            moved = line.direction[at] != 0
            u, gradient = line.direction[at][moved], base.gradients[at][moved]
            missing = float((census.numeric[moved] - gradient) @ u)
            deviation = math.hypot(line.error, float(np.linalg.norm(census.error[moved] * u)))
            allowed = _AGREE * deviation + line.slack + base.material * float(np.linalg.norm(gradient * u))
            if not abs(missing - line.missing) <= allowed:
                return False
        return True

    def outcome(self, at: int, census: Census, before: Outcome) -> Outcome:
        """What all entries of a tensor say of it, besides what was known before."""
        base, gradient, own = self.base, self.base.gradients[at], self.base.gradient_errors[at]
        numeric, error = census.numeric.copy(), census.error.copy()
        rms = _rms(gradient)
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
        status, resolution, entry_resolution = before.status, before.resolution, before.entry_resolution
        caught, size = bars + _NEARLY_ALL * error, float(np.linalg.norm(gradient))
        if size > ZERO_WITHIN * float(np.linalg.norm(own)):  # else there is nothing to be relative to
            resolution = min(resolution, float(np.linalg.norm(caught)) / size)
            entry_resolution = float(caught.max(initial=0.0)) / rms
        if wrong:
            status = "wrong"
        elif status == "unresolved" and resolution <= self._sensitivity:
            status = "right"
        missing, both = float(np.linalg.norm(numeric - gradient)), float(np.linalg.norm(numeric)) + size
        mistake = before.mistake
        if status == "wrong" and before.status != "wrong":
            lines = [entry.line for entry in entries]
            mistake = recognise(
                self._problem.tensors[at],
                gradient,
                lines,
                entries,
                self._problem.sample_sizes,
                at,
                problem=self._problem,
                base=base,
            )
        return Outcome(
            status,
            relative_error=missing / both if both else 0.0,
            numeric_error=float(np.linalg.norm(np.hypot(error, own))) / both if both else 0.0,
            resolution=resolution,
            entry_resolution=entry_resolution,
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


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _typical(errors: Array) -> Array:
    """Of each row the standard deviation, whatever a few of them do (a kink lies near); infinite where they are NaN."""
    return np.asarray(MEDIAN_TO_STD * np.median(np.where(np.isfinite(errors), errors, np.inf), axis=1))
