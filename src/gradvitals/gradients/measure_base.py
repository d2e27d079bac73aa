"""What all lines share: the point, the value and the gradient there, and how noisy either is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.maths.differences import (
    FARTHEST_STAIR,
    HIGHEST_STAIR,
    MEDIAN_TO_STD,
    NEARBY,
    noise_from,
    rounding,
    spacing_for,
    stair_height,
)

#: Backward passes are computed, not exact: what is missing must exceed this share of the gradient, by unit roundoff
#: of the coarsest dtype.
MATERIAL = ((1e-12, 1e-7), (1e-6, 1e-5), (1e-3, 2e-3), (1.0, 1.6e-2))
#: A gradient this many times its own rounding error, or smaller, can't be told from zero.
ZERO_WITHIN = 10.0
#: Relative size of a tensor's steps where the tensor is all zeros.
_SCALE_OF_ZEROS = 1.0
#: Of so few outputs the noise is looked at along several directions, for seven points of one tell it only roughly.
_FEW_OUTPUTS, _NOISE_DIRECTIONS = 8, 2
#: In float64 noise is no matter: one direction does.
_FINE = 1e-12
#: An output's noise, seen at seven points, is never taken for less than this share of what is usual beside it.
_LEAST_OF_USUAL = 0.5
#: Stairs are looked for where more than this share of the outputs stays the same nearby.
_MANY_FLAT = 0.5
#: As far away as this: a value that had a large number added and taken away again changes in such steps only.
_FARTHEST_FLAT = 64 * FARTHEST_STAIR
#: Pairs of points beside the base at which the backward pass is repeated to see its rounding. Over PyTorch's operators
#: in bfloat16 the error seen so is 2.4 times the true one (median) and never smaller; first differences made it 5.7.
_PAIRS = 2
#: Of a gradient that is nothing but rounding, a few neighbours tell the size only roughly.
_DISTRUST_ZERO = 3.0
#: Rounding that is assumed of a gradient whose own can't be seen, in unit roundoffs of the largest one.
_ASSUMED_UNITS = 4.0
#: A gradient below the smallest number of its dtype (the smallest normal one where processors flush to it) is lost.
_SMALLEST = {"float64": 2.3e-308, "float32": 1.2e-38, "bfloat16": 1.2e-38, "float16": 6e-8}
#: Stairs this much higher than the evaluations' own rounding come from somewhere else.
_COARSER = 8.0
#: A second difference, as :func:`_second_differences` gives it, has √3 times the deviation of a rounding error.
_ROUNDING_OF_NEIGHBOURS = 1 / math.sqrt(3)
#: Whatever changes faster than this is no change: an overflow.
_FASTEST = 1e150


@dataclass(frozen=True, slots=True)
class Base:
    """What all lines share: the point, the function's value there, and the gradient to be judged.

    Attributes
    ----------
    points, gradients, gradient_errors, gradient_doubts : tuple of flat arrays, one per tensor
        The point; the claimed gradient (zeros where there is none); its own rounding, one standard deviation; and how
        much it differs at the farthest of a few points one unit in the last place away.
    value, noise, rounding, cotangent : array of shape (M,)
        The outputs, the standard deviation of their noise, that of rounding a value of 1, and the outputs' weights.
    scales : tuple of float
        What a step of 1 is for each tensor: the power of two nearest to its RMS.
    roundoff, gradient_roundoff : float
        Unit roundoff of the evaluations and of the backward pass.
    inner_roundoff : float
        The one that the function seems to be computed with inside; zero where none coarser is seen.
    alone : int or None
        The tensor that alone is moved to see noise and rounding; None where all are.

    """

    points: tuple[Array, ...]
    value: Array
    noise: Array
    rounding: Array
    cotangent: Array
    gradients: tuple[Array, ...]
    gradient_errors: tuple[Array, ...]
    scales: tuple[float, ...]
    roundoff: float
    gradient_roundoff: float
    gradient_doubts: tuple[Array, ...] = ()
    inner_roundoff: float = 0.0
    alone: int | None = None
    _sizes: dict[int, float] = field(default_factory=dict, init=False, compare=False)

    @property
    def in_stairs(self) -> bool:
        """Whether the function is rounded inside more coarsely than its evaluations are."""
        return self.inner_roundoff > _COARSER * self.roundoff

    def is_rough(self, slope: float) -> bool:
        """Whether the function is noisier than rounding makes it, as stairs seen from near are.

        What is rounded is at least as large as its value, and as what the slope makes of a step of 1.
        """
        size = max(float(np.linalg.norm(self.cotangent * self.value)), abs(slope))
        return self.projected_noise > _COARSER * self.roundoff * size

    @property
    def material(self) -> float:
        """The share of the gradient below which a difference is the backward pass's own rounding."""
        return next(share for bound, share in MATERIAL if self.gradient_roundoff < bound)

    @property
    def projected_noise(self) -> float:
        """Standard deviation of the noise of ⟨cotangent, F⟩."""
        return float(np.linalg.norm(np.where(self.cotangent == 0, 0.0, self.cotangent * self.noise)))

    def size(self, tensor: int) -> float:
        """The 2-norm of the claimed gradient."""
        if tensor not in self._sizes:
            self._sizes[tensor] = float(np.linalg.norm(self.gradients[tensor]))
        return self._sizes[tensor]

    def strength(self, tensor: int) -> float:
        """Standard deviation of the claimed slope along a random direction of the tensor's own scale."""
        return self.scales[tensor] * self.size(tensor)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What F shows near the point: each output's noise and rough rate of change, and stairs if it has any."""

    noise: Array
    change: Array
    stairs: Array

    def repeated(self, difference: Array) -> Surroundings:
        """With what F differs by at the same point as noise more."""
        return replace(self, noise=np.hypot(self.noise, difference))


def surroundings(
    problem: Problem,
    value: Array,
    rng: np.random.Generator,
    *,
    alone: int | None = None,
) -> Surroundings:
    """Look around the point: every output's noise, of shape (M,), from points close to one another on one side.

    Where outputs stay exactly the same nearby, something inside may be rounded coarsely: then stairs are looked for
    farther away. All tensors are moved, or one ``alone``.
    """
    points = [problem.point(at) for at in range(len(problem.tensors))]
    moved = range(len(points)) if alone is None else [alone]
    directions = [
        {at: scale_of(points[at]) * rng.standard_normal(points[at].size) for at in moved}
        for _ in range(_NOISE_DIRECTIONS if value.size < _FEW_OUTPUTS and problem.roundoff > _FINE else 1)
    ]
    spacing = spacing_for(problem.roundoff)
    near = [_values_along(problem, points, direction, spacing) for direction in directions]
    noise = np.nan_to_num(np.sqrt(np.mean([noise_from(values) ** 2 for values in near], axis=0)))
    stairs = np.zeros(value.size)
    flat = np.all(np.diff(near[-1], axis=0) == 0, axis=0)
    if float(np.mean(flat)) > _MANY_FLAT:
        stairs = _stairs(problem, points, directions[-1], flat, spacing)
    own = rounding(value, 1.0) * problem.output_roundoff
    noise = np.hypot(np.fmax(noise, own), stairs / math.sqrt(12))
    for part in parts_of(problem.output_sizes):
        noise[part] = np.fmax(noise[part], _LEAST_OF_USUAL * np.median(noise[part]))
        shares = noise[part] / np.where(own[part] > 0, own[part], np.inf)
        usual = float(np.median(shares[shares > 0])) if (shares > 0).any() else 1.0
        noise[part] = np.fmax(noise[part], _LEAST_OF_USUAL * usual * own[part])
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.abs(near[-1][-1] - near[-1][0]) / ((NEARBY[-1] - NEARBY[0]) * spacing)
    change = np.where(change < _FASTEST, change, 0.0)
    return Surroundings(noise, change, stairs)


def assumed_surroundings(problem: Problem, value: Array, rng: np.random.Generator) -> Surroundings:
    """What is assumed of a function that is computed exactly: noise of the roundoff of its values.

    How fast outputs change is looked at where there are several, whose weights depend on it.
    """
    change = np.zeros(value.size)
    if len(problem.output_sizes) > 1:
        points = [problem.point(at) for at in range(len(problem.tensors))]
        spacing = spacing_for(problem.roundoff)
        beside = {at: x + spacing * scale_of(x) * rng.standard_normal(x.size) for at, x in enumerate(points)}
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.abs(problem.values([beside])[0] - value) / spacing
        change = np.where(change < _FASTEST, change, 0.0)
    return Surroundings(rounding(value, 1.0) * problem.output_roundoff, change, np.zeros(value.size))


def _values_along(problem: Problem, points: Sequence[Array], direction: Mapping[int, Array], spacing: float) -> Array:
    """F at points a spacing apart, of shape (7, M)."""
    steps = [{at: points[at] + step * spacing * u for at, u in direction.items()} for step in NEARBY]
    return problem.values(steps)


def _stairs(
    problem: Problem, points: Sequence[Array], direction: Mapping[int, Array], flat: np.ndarray, nearest: float
) -> Array:
    """Height of each output's stairs, of those that are flat nearby: looked for where even bfloat16 changes, then
    closer.

    Where most of them stay the same even there, they are constant, and the others are likely to have met a kink.
    """
    height = np.zeros(flat.size)
    spacing = _FARTHEST_FLAT
    while spacing > 2 * nearest:
        values = _values_along(problem, points, direction, spacing)
        height = np.where(flat, np.fmax(height, stair_height(values, _usual(problem, values))), 0.0)
        changing = float(np.mean(flat & np.any(np.diff(values, axis=0) != 0, axis=0)))
        if spacing <= FARTHEST_STAIR and changing <= _MANY_FLAT:
            break
        spacing /= 4
    return height


def _usual(problem: Problem, values: Array) -> Array:
    """Of each output the RMS of all in its tensor, of values of shape (K, M)."""
    usual = np.zeros(values.shape[1])
    for part in parts_of(problem.output_sizes):
        usual[part] = np.sqrt(np.mean(np.square(np.nan_to_num(values[:, part]))))
    return usual


def parts_of(sizes: Sequence[int]) -> Iterator[slice]:
    """Where each tensor's entries lie among all, those of empty tensors left out."""
    start = 0
    for size in sizes:
        if size:
            yield slice(start, start + size)
        start += size


def measure_base(
    problem: Problem,
    value: Array,
    around: Surroundings,
    cotangent: Array,
    gradients: tuple[Gradient, ...],
    rng: np.random.Generator,
    *,
    pairs: int = _PAIRS,
) -> Base:
    """Collect what is known at the point, and see how much the backward pass rounds.

    With ``pairs=0`` its rounding is assumed: a few units in the last place of the largest gradient.
    """
    points = tuple(problem.point(at) for at in range(len(problem.tensors)))
    size = float(np.linalg.norm(cotangent * value))
    stairs = float(np.linalg.norm(cotangent * around.stairs))
    inner = stairs / 2 / max(size, stairs / HIGHEST_STAIR) if stairs else 0.0  # half a step is the unit roundoff
    base = Base(
        points=points,
        value=value,
        noise=around.noise,
        rounding=rounding(np.ones(value.size), 1.0) * problem.output_roundoff,
        cotangent=cotangent,
        gradients=(),
        gradient_errors=(),
        scales=tuple(scale_of(x) for x in points),
        roundoff=problem.roundoff,
        gradient_roundoff=max(problem.roundoff, inner, *(tensor.roundoff for tensor in problem.tensors)),
        inner_roundoff=inner,
    )
    return with_gradients(problem, base, cotangent, gradients, rng, pairs=pairs)


def with_gradients(
    problem: Problem,
    base: Base,
    cotangent: Array,
    gradients: tuple[Gradient, ...],
    rng: np.random.Generator,
    *,
    pairs: int = _PAIRS,
) -> Base:
    """The base with a cotangent and the gradients that it gives, whose rounding shows a unit in the last place away."""
    flat = tuple(
        np.zeros(t.size) if g.value is None else _finite(g.value)
        for t, g in zip(problem.tensors, gradients, strict=True)
    )
    base = replace(base, cotangent=cotangent, gradients=flat)
    if not pairs:
        assumed = zip(flat, _assumed_rounding(base), strict=True)
        return replace(base, gradient_errors=tuple(np.full(g.size, error) for g, error in assumed))
    beside = [_gradients_beside(problem, base, rng) for _ in range(pairs)]
    differences = [_second_differences(g, [(a[at].value, b[at].value) for a, b in beside]) for at, g in enumerate(flat)]
    errors = tuple(
        np.fmax(_rounding_of(g, apart, max(base.inner_roundoff, tensor.roundoff)), _SMALLEST.get(tensor.dtype, 0.0))
        for g, apart, tensor in zip(flat, differences, problem.tensors, strict=True)
    )
    doubts = tuple(np.max(np.abs(apart), axis=0, initial=0.0) for apart in differences)
    ahead = beside[0][0]
    follows = any(a.value is not None and not np.array_equal(a.value, g) for a, g in zip(ahead, flat, strict=True))
    if not follows:
        errors = tuple(np.hypot(*each) for each in zip(errors, _assumed_rounding(base), strict=True))
    return replace(base, gradient_errors=errors, gradient_doubts=doubts)


def _gradients_beside(
    problem: Problem, base: Base, rng: np.random.Generator
) -> tuple[tuple[Gradient, ...], tuple[Gradient, ...]]:
    """The gradients on both sides of the base, a unit in the last place away in every entry of point and cotangent.

    Of the coarser of dtype and computation; a scalar's cotangent stays 1.
    """
    coarser = [max(tensor.roundoff, base.gradient_roundoff) for tensor in problem.tensors]
    moved = range(len(coarser)) if base.alone is None else [base.alone]
    step = {at: _signed_unit(base.points[at], coarser[at], rng) for at in moved}
    turn = np.zeros_like(base.cotangent)
    if problem.objective == "random":
        turn = _signed_unit(base.cotangent, base.gradient_roundoff, rng)
    ahead, behind = (
        problem.gradient(base.cotangent + sign * turn, {at: base.points[at] + sign * d for at, d in step.items()})
        for sign in (1.0, -1.0)
    )
    return ahead, behind


def _signed_unit(values: Array, roundoff: float, rng: np.random.Generator) -> Array:
    """A unit in the last place of every value, of random sign; zero for zero."""
    unit = np.ldexp(2 * roundoff, np.frexp(np.where(values == 0, 1.0, values))[1] - 1)
    signed: Array = np.where(values == 0, 0.0, unit) * rng.choice((-1.0, 1.0), values.size)
    return signed


def _second_differences(gradient: Array, pairs: Sequence[tuple[Array | None, Array | None]]) -> Array:
    """What is left of the gradient's differences when what is linear is taken away, of shape (pairs, size).

    Of rounding errors of deviation σ it has a deviation of √3 σ, as a difference of numbers one unit apart.
    """
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    apart = [np.nan_to_num((a + b - 2 * gradient) / math.sqrt(2), posinf=0.0, neginf=0.0) for a, b in both]
    return np.array(apart).reshape(len(apart), gradient.size)


def _rounding_of(gradient: Array, differences: Array, roundoff: float) -> Array:
    """The backward pass's own rounding, seen from how much it differs one unit in the last place away.

    Differences are of shape (pairs, size); the median counts, for at a few neighbours a unit may be on the other
    side of its kink. So few tell little of one entry, so that an entry's error is never taken for smaller than the
    tensor's typical one.
    """
    spread = MEDIAN_TO_STD * np.median(np.abs(differences), axis=0) if len(differences) else np.zeros(gradient.size)
    typical = float(np.sqrt(np.mean(spread**2))) if spread.size else 0.0
    errors = np.hypot(_ROUNDING_OF_NEIGHBOURS * np.fmax(spread, typical), 0.6 * roundoff * np.abs(gradient))
    is_rounding = float(np.linalg.norm(gradient)) <= ZERO_WITHIN * float(np.linalg.norm(errors))
    return _DISTRUST_ZERO * errors if is_rounding else errors


def _finite(values: Array) -> Array:
    """A copy with zeros for what isn't finite."""
    finite = np.isfinite(values)
    return values.copy() if finite.all() else np.where(finite, values, 0.0)


def _assumed_rounding(base: Base) -> tuple[float, ...]:
    """Of a gradient that is the same wherever it is asked for (computed values, a closure) no rounding can be seen.

    Then a few units in the last place of the largest gradient are assumed: sums that cancel leave as much.
    """
    reference = max(base.strength(at) for at in range(len(base.points)))
    assumed = _ASSUMED_UNITS * base.gradient_roundoff * reference
    return tuple(
        assumed / (scale * math.sqrt(max(x.size, 1))) for x, scale in zip(base.points, base.scales, strict=True)
    )


def scale_of(x: Array) -> float:
    """The power of two nearest to the RMS: steps by powers of two are exact."""
    rms = math.sqrt(float(x @ x) / x.size) if x.size else 0.0
    return 2.0 ** round(math.log2(rms)) if rms > 0 and math.isfinite(rms) else _SCALE_OF_ZEROS
