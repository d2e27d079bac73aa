"""F at steps to both sides along one direction, kept output by output.

Outputs are kept apart because each has a noise and kinks of its own: every output's slope is taken from the steps that
serve it best, and an output at a kink can be left out afterwards without asking the function again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.maths.differences import Ladder, Slope, extrapolate, kink_errors

#: Kinks are looked for above this many standard deviations of an output's noise.
_KINK_NOISE = 4.0
#: A jump: differences are followed over so many of the finest steps, where there are so many; a smooth function's fall
#: as the steps do, those across a jump stay. Between lies this power (measured on functions with a passage of 1e-8);
#: they must be well above noise.
_LOOKED_BACK, _TOO_SLOW, _ABOVE_NOISE = 2, 0.55, 20.0
#: Numbers of points that are held at a time: fresh memory for all points of a model with 10⁶ parameters took as long
#: as evaluating it.
_HELD = 2**21
#: The bits of a float64 that hold its exponent.
_EXPONENT = np.int64(0x7FF0_0000_0000_0000)


@dataclass(frozen=True, slots=True)
class Ray:
    """What was evaluated along one direction.

    Attributes
    ----------
    direction : mapping of tensor number to flat array
        Displacement of each moved tensor at step 1; the displaced points are exact in the tensors' dtypes.
    steps : array of shape (K,)
        Largest first, falling by a constant ratio.
    ahead, behind : array of shape (K, M)
        F there, NaN where it can't be had.
    centre : array of shape (M,)
        F at the point itself.

    """

    direction: Mapping[int, Array]
    steps: Array
    ahead: Array
    behind: Array
    centre: Array

    def slopes(self, noise: Array) -> Slope:
        """Every output's slope along the direction, with its error bar: arrays of shape (M,), from :meth:`noise`."""
        across = 2 * self.steps[:, None]
        with np.errstate(invalid="ignore", over="ignore"):
            quotients = (self.ahead - self.behind) / across
            even = self.ahead + self.behind - 2 * self.centre
            slopes = extrapolate(quotients, self.steps, noise, kink_errors(even, self.steps, noise))
        return replace(slopes, error=np.where(self.jumps(noise), np.inf, slopes.error))

    def jumps(self, noise: Array) -> np.ndarray:
        """Outputs, of shape (M,), whose slopes grow as steps shrink down to the finest one: a jump at the point, or a
        passage narrower than any step.
        """
        back = min(_LOOKED_BACK, len(self.steps) - 1)
        if back < 1:
            return np.zeros(self.centre.size, dtype=bool)
        with np.errstate(invalid="ignore", over="ignore"):
            coarse, fine = np.abs(self.ahead - self.behind)[[-1 - back, -1]]
            expected = self.steps[-1] / self.steps[-1 - back]
            grown = fine >= expected**_TOO_SLOW * coarse
            jumps: np.ndarray = grown & (fine > _ABOVE_NOISE * noise[-1])
        return jumps

    def rate(self, base: Base) -> float:
        """How fast the weighed outputs change at most: what a slope is compared with where it is zero."""
        with np.errstate(invalid="ignore", over="ignore"):
            changes = np.nan_to_num(np.stack([self.ahead, self.behind]) - self.centre, posinf=0.0, neginf=0.0)
            return float(np.max(np.linalg.norm(base.cotangent * changes, axis=-1) / self.steps, initial=0.0))

    def noise(self, base: Base) -> Array:
        """Every output's noise at every step, of shape (K, M): where values are larger, so is their rounding."""
        return self.noise_of(base.noise, base.rounding)

    def noise_of(self, least: Array, rounding: Array) -> Array:
        """The same of outputs with these noises, of which a value of 1 has these roundings."""
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.fmax(np.abs(self.ahead), np.abs(self.behind))
            noise: Array = np.fmax(least, np.where(np.isfinite(size), rounding * size, 0.0))
        return noise

    def gaps(self, noise: Array) -> Array:
        """Half the difference of the slopes on both sides, beyond noise and curvature: (K, M). A kink at the point
        itself keeps its gap at every step.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            bend = np.abs(self.ahead + self.behind - 2 * self.centre)
            gap = np.fmax(bend - _KINK_NOISE * math.sqrt(6) * noise, 0.0) / (2 * self.steps[:, None])
            if len(self.steps) > 1:  # curvature makes a gap as well, in proportion to the step
                ratio = self.steps[0] / self.steps[1]
                gap[1:] = np.fmax(ratio * gap[1:] - gap[:-1], 0.0) / (ratio - 1)
            return gap

    def extended(self, coarse: Ray, fine: Ray) -> Ray:
        """The same ray with larger and smaller steps as well."""
        parts = [part for part in (coarse, self, fine) if len(part.steps)]
        return Ray(
            self.direction,
            np.concatenate([part.steps for part in parts]),
            np.vstack([part.ahead for part in parts]),
            np.vstack([part.behind for part in parts]),
            self.centre,
        )


def side_by_side(base: Base, rays: Sequence[Ray]) -> tuple[Ray, Array]:
    """Rays of the same steps as one, its outputs theirs one after another, and every output's noise at every step."""
    if len(rays) == 1:
        return rays[0], rays[0].noise(base)
    ahead, behind = np.hstack([ray.ahead for ray in rays]), np.hstack([ray.behind for ray in rays])
    joined = Ray({}, rays[0].steps, ahead, behind, np.concatenate([ray.centre for ray in rays]))
    least, unit = (np.concatenate([each] * len(rays)) for each in (base.noise, base.rounding))
    return joined, joined.noise_of(least, unit)


def cast(problem: Problem, base: Base, directions: Sequence[Mapping[int, Array]], steps: Sequence[Array]) -> list[Ray]:
    """Evaluate F at steps to both sides along directions that :func:`exact` made."""
    # Many points at once may round differently than one: what is compared comes from one call then.
    with_centre = not problem.evaluation.startswith("sequential")
    points = _points(base, directions, steps, with_centre=with_centre)
    size = max((sum(u.size for u in direction.values()) for direction in directions), default=1)
    held = None if with_centre else max(1, _HELD // max(size, 1))
    found = [np.empty((0, base.value.size))]
    while some := list(itertools.islice(points, held)):
        found.append(problem.values(some))
    values = found[-1] if len(found) == 2 else np.vstack(found)
    centre, start = (values[0], 1) if with_centre else (base.value, 0)
    rays = []
    for direction, along in zip(directions, steps, strict=True):
        stop = start + 2 * len(along)
        ahead, behind = values[start:stop:2], values[start + 1 : stop : 2]
        rays.append(Ray(direction, along, ahead, behind, np.where(np.isfinite(centre), centre, base.value)))
        start = stop
    return rays


def _points(
    base: Base, directions: Sequence[Mapping[int, Array]], steps: Sequence[Array], *, with_centre: bool
) -> Iterator[Mapping[int, Array]]:
    """At every step along every direction a point ahead and one behind, made when they are asked for."""
    if with_centre:
        yield {}
    for direction, along in zip(directions, steps, strict=True):
        for step in along:
            moves = {at: float(step) * u for at, u in direction.items()}
            yield {at: base.points[at] + move for at, move in moves.items()}
            yield {at: base.points[at] - move for at, move in moves.items()}


def exact(problem: Problem, base: Base, direction: Mapping[int, Array], ladder: Ladder) -> dict[int, Array]:
    """The direction, changed so little that every displaced point is a number of the tensor's dtype.

    At the finest step an entry moves by a whole number of units in the last place, of the largest number that it
    becomes; at all others by a power of two times that. Rounding the points is then no error of the slope.
    """
    largest, finest = ladder.first, float(ladder.steps[-1])
    made = {}
    for at, u in direction.items():
        roundoff = min(problem.tensors[at].roundoff, problem.roundoff)
        unit = np.abs(u)
        unit *= largest
        unit += np.abs(base.points[at])
        unit = _power_below(unit)
        unit *= 2 * roundoff
        count = finest * u
        count /= unit
        np.rint(count, out=count)
        if not count.all():
            count = np.where(count == 0, np.sign(u), count)
        count *= unit
        count /= finest
        made[at] = count
    return made


def _power_below(sizes: Array) -> Array:
    """The largest power of two that isn't greater than each of some numbers >= 0; 1 for those that have none.

    The exponent's bits alone: many times faster than taking numbers apart and putting them together.
    """
    powers: Array = (sizes.view(np.int64) & _EXPONENT).view(np.float64)
    return powers if powers.all() else np.where(powers > 0, powers, 1.0)
