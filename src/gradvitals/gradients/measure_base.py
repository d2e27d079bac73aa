"""What all lines share: the point, the value and the gradient there, and how noisy either is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.maths.differences import MEDIAN_TO_STD, NEARBY, ladder_for, noise_from, stair_height
from gradvitals.vocabulary.errors import ModelError

#: Backward passes are computed, not exact: what is missing must exceed this share of the gradient, by unit roundoff
#: of the coarsest dtype.
MATERIAL = ((1e-12, 1e-7), (1e-6, 1e-4), (1e-3, 2e-3), (1.0, 1.6e-2))
#: A gradient this many times its own rounding error, or smaller, can't be told from zero.
ZERO_WITHIN = 10.0
#: Relative size of a tensor's steps where the tensor is all zeros.
_SCALE_OF_ZEROS = 1.0
#: Directions along which the function's noise is measured; the median counts.
_NOISE_DIRECTIONS = 3
#: Points beside the base at which the backward pass is repeated to see its rounding.
_NEIGHBOURS = 5
#: Of a gradient that is nothing but rounding, a few neighbours tell the size only roughly.
_DISTRUST_ZERO = 3.0
#: Rounding that is assumed of a gradient whose own can't be seen, in unit roundoffs of the largest one.
_ASSUMED_UNITS = 4.0
#: A gradient below the smallest number of its dtype (the smallest normal one where processors flush to it) is lost.
_SMALLEST = {"float64": 2.3e-308, "float32": 1.2e-38, "bfloat16": 1.2e-38, "float16": 6e-8}
#: Stairs this much higher than the evaluations' own rounding come from somewhere else.
_COARSER = 8.0
#: Neighbours are one unit in the last place away; a rounded result is off by a uniform error of at most half of that.
_ROUNDING_OF_NEIGHBOURS = 1 / math.sqrt(3)


@dataclass(frozen=True, slots=True)
class Base:
    """What all lines share: the point, the function's value there, and the gradient to be judged.

    ``roundoff`` is the evaluations' unit roundoff, ``gradient_roundoff`` the backward pass's, ``inner_roundoff`` the
    one that the function seems to be computed with inside; ``noise`` is that of ⟨cotangent, F⟩ nearby,
    ``repeat_noise`` each output's difference when asked again. ``points`` and ``gradients`` hold a flat array per
    tensor (zeros where there is no gradient), ``gradient_errors`` the gradient's own rounding.
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
    gradient_doubts: tuple[Array, ...] = ()
    inner_roundoff: float = 0.0

    @property
    def in_stairs(self) -> bool:
        """Whether the function is rounded inside more coarsely than its evaluations are."""
        return self.inner_roundoff > _COARSER * self.roundoff

    @property
    def material(self) -> float:
        """The share of the gradient below which a difference is the backward pass's own rounding."""
        return next(share for bound, share in MATERIAL if self.gradient_roundoff < bound)

    def strength(self, tensor: int) -> float:
        """Standard deviation of the claimed slope along a random direction of the tensor's own scale."""
        return self.scales[tensor] * float(np.linalg.norm(self.gradients[tensor]))


def measure_base(
    problem: Problem,
    value: Array,
    repeat_noise: Array,
    cotangent: Array,
    gradients: tuple[Gradient, ...],
    rng: np.random.Generator,
) -> Base:
    """Look around the point: how noisy are the function and its gradient there?

    Parameters
    ----------
    problem : Problem
    value, repeat_noise : array of shape (M,)
        The function's value, and by how much it differed when asked again.
    cotangent : array of shape (M,)
    gradients : tuple of Gradient
        As the backward pass gave them at the point.
    rng : numpy.random.Generator

    """
    points = tuple(problem.point(at) for at in range(len(problem.tensors)))
    flat = tuple(
        np.zeros(t.size) if g.value is None else np.where(np.isfinite(g.value), g.value, 0.0)
        for t, g in zip(problem.tensors, gradients, strict=True)
    )
    base = Base(
        points=points,
        value=value,
        repeat_noise=repeat_noise,
        noise=0.0,
        cotangent=cotangent,
        gradients=flat,
        gradient_errors=tuple(np.zeros_like(g) for g in flat),
        scales=tuple(_scale(x) for x in points),
        roundoff=problem.roundoff,
        gradient_roundoff=max(tensor.roundoff for tensor in problem.tensors),
    )
    noise, roundoff = _noise_nearby(problem, base, rng)
    coarsest = max(base.gradient_roundoff, roundoff)
    base = replace(base, noise=noise, gradient_roundoff=coarsest, inner_roundoff=roundoff)
    around = [_beside(problem, base, rng) for _ in range(_NEIGHBOURS)]
    neighbours = [problem.gradient(cotangent, moved) for moved in around]
    differences = [_differences(g, [near[at].value for near in neighbours]) for at, g in enumerate(flat)]
    errors = tuple(
        np.fmax(_rounding_of(g, apart, max(roundoff, tensor.roundoff)), _SMALLEST.get(tensor.dtype, 0.0))
        for g, apart, tensor in zip(flat, differences, problem.tensors, strict=True)
    )
    doubts = tuple(np.max(np.abs(apart), axis=0, initial=0.0) for apart in differences)
    follows = any(apart.any() for apart in differences)
    return replace(
        base,
        gradient_errors=errors if follows else _assumed_rounding(base, errors),
        gradient_doubts=doubts,
    )


def cotangent_of(problem: Problem, size: int, rng: np.random.Generator) -> Array:
    """1 for a scalar objective, else random signs of random size, which no mistake cancels by accident."""
    if problem.objective != "random":
        return np.ones(size)
    drawn = rng.choice((-1.0, 1.0), size) * rng.uniform(0.5, 1.0, size)
    return problem.representable(drawn)


def _noise_nearby(problem: Problem, base: Base, rng: np.random.Generator) -> tuple[float, float]:
    """The noise of ⟨cotangent, F⟩, and the unit roundoff that F seems to be computed with inside (zero: no coarser
    one).

    A kink may lie among the few points of one direction, hardly among those of two out of three. Where outputs stay
    exactly the same nearby, something inside may be rounded coarsely: then stairs are looked for farther away.
    """
    spacings = ladder_for(base.roundoff).spacings
    found = []
    for _ in range(_NOISE_DIRECTIONS):
        direction = {at: scale * rng.standard_normal(base.points[at].size) for at, scale in enumerate(base.scales)}
        values, projected = _values_along(problem, base, direction, spacings[0])
        found.append(noise_from(projected))
    noise = float(np.median(found))
    stairs = stair_height(values)
    for spacing in spacings[1:]:
        if not np.any(np.diff(values, axis=0) == 0):
            break
        values, _ = _values_along(problem, base, direction, spacing)
        stairs = np.fmax(stairs, stair_height(values))
    weighed = float(np.linalg.norm(base.cotangent * stairs))
    size = float(np.linalg.norm(base.cotangent * base.value))
    roundoff = weighed / (2 * size) if size else 0.0  # half a step of a value is its unit roundoff
    noise = noise if math.isfinite(noise) else 0.0
    return math.hypot(noise, weighed / math.sqrt(12)), roundoff


def _values_along(problem: Problem, base: Base, direction: Mapping[int, Array], spacing: float) -> tuple[Array, Array]:
    """F at points close to one another, of shape (7, M), and ⟨cotangent, F⟩ less what the gradient predicts, (7,)."""
    values, projected = [], []
    for step in NEARBY:
        value, gone = moved_value(problem, base, direction, step * spacing)
        values.append(value)
        projected.append(float(base.cotangent @ value) - gone)
    return np.array(values), np.array(projected)


def _beside(problem: Problem, base: Base, rng: np.random.Generator) -> dict[int, Array]:
    """A point one unit in the last place away in every entry, of the coarser of dtype and computation."""
    coarser = [max(tensor.roundoff, base.gradient_roundoff) for tensor in problem.tensors]
    return {
        at: x * (1 + 2 * roundoff * rng.choice((-1.0, 1.0), x.size))
        for at, (x, roundoff) in enumerate(zip(base.points, coarser, strict=True))
    }


def _differences(gradient: Array, neighbours: Sequence[Array | None]) -> Array:
    """How much the gradient differs at its neighbours, of shape (neighbours, size)."""
    apart = [np.nan_to_num(near - gradient, posinf=0.0, neginf=0.0) for near in neighbours if near is not None]
    return np.array(apart).reshape(len(apart), gradient.size)


def _rounding_of(gradient: Array, differences: Array, roundoff: float) -> Array:
    """The backward pass's own rounding, seen from how much it differs one unit in the last place away.

    Differences are of shape (neighbours, size); the median counts, for at a few neighbours a unit may be on the other
    side of its kink. So few tell little of one entry, so that an entry's error is never taken for smaller than the
    tensor's typical one.
    """
    spread = MEDIAN_TO_STD * np.median(np.abs(differences), axis=0) if len(differences) else np.zeros(gradient.size)
    typical = float(np.sqrt(np.mean(spread**2))) if spread.size else 0.0
    errors = np.hypot(_ROUNDING_OF_NEIGHBOURS * np.hypot(spread, typical), 0.6 * roundoff * np.abs(gradient))
    is_rounding = float(np.linalg.norm(gradient)) <= ZERO_WITHIN * float(np.linalg.norm(errors))
    return _DISTRUST_ZERO * errors if is_rounding else errors


def _assumed_rounding(base: Base, errors: tuple[Array, ...]) -> tuple[Array, ...]:
    """Of a gradient that is the same wherever it is asked for (computed values, a closure) no rounding can be seen.

    Then a few units in the last place of the largest gradient are assumed: sums that cancel leave as much.
    """
    reference = max(base.strength(at) for at in range(len(base.points)))
    assumed = _ASSUMED_UNITS * base.gradient_roundoff * reference
    return tuple(
        np.hypot(error, assumed / (scale * math.sqrt(max(error.size, 1))))
        for error, scale in zip(errors, base.scales, strict=True)
    )


def _scale(x: Array) -> float:
    """The power of two nearest to the RMS: steps by powers of two are exact."""
    rms = float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
    return 2.0 ** round(math.log2(rms)) if rms > 0 and math.isfinite(rms) else _SCALE_OF_ZEROS


def moved_value(problem: Problem, base: Base, direction: Mapping[int, Array], step: float) -> tuple[Array, float]:
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
