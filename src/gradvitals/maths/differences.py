"""The derivative of a function along a line, with its error bar.

Central differences at a ladder of steps are extrapolated to step zero (Richardson). Every entry of the extrapolation
table has two errors: the truncation still in it, seen from how much it moved, and the function's noise divided by the
step. The entry with the smallest sum is the answer, so the step is chosen by the function itself, never given.

References
----------
Ridders (1982), Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4(2).
Moré and Wild (2011), Estimating computational noise, SIAM J. Sci. Comput. 33(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"

#: A rounded result is off by a uniform error of half a unit in the last place: its standard deviation is that over √3.
_UNIFORM_STD = 1 / math.sqrt(3)
#: Where noise is looked at, in units of the spacing: on one side, for a kink may lie at the point itself.
NEARBY = (1, 2, 3, 4, 5, 6, 7)
#: The median of |noise| times this is the standard deviation of a normal distribution.
MEDIAN_TO_STD = 1.4826
#: Column of the extrapolation table past which more smoothness is assumed than real functions have (measured in
#: ``tests/maths``).
_DEEPEST = 4
#: A ladder whose steps fall by less needs fewer of them.
_STEEP = 4.0
#: A ladder of so many rungs has steps that only a kink or a coarsely rounded function needs.
_LONG = 10
#: Of a shorter one the largest so many do.
_SHORT = 4
#: Points this far apart (relative) differ even when they are rounded to bfloat16.
FARTHEST_STAIR = 4e-3
#: Rounding to bfloat16, the coarsest format, makes steps of at most 2⁻⁷ of the value, and of more after a cancellation;
#: what goes up in higher steps (round, floor) is meant to.
HIGHEST_STAIR = 0.1
#: A plain difference that hardly moved once may move again: its truncation estimate is raised by this.
_DISTRUST_PLAIN = 1.5
#: What looks like a kink and is smaller than this variance ratio is noise (3 standard deviations).
_NOISE_CUT = 9.0
#: The first entry of a column has no coarser neighbour to be compared with: its truncation estimate is raised by this.
_DISTRUST_FIRST = 3.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """Steps ``first · ratio⁻ᵏ``, k = 0 … rungs − 1, relative to the scale of what is moved."""

    first: float
    ratio: float
    rungs: int

    @property
    def steps(self) -> Array:
        """The steps, largest first."""
        return self.first * self.ratio ** -np.arange(self.rungs, dtype=np.float64)

    @property
    def middle(self) -> tuple[int, int]:
        """First rung, and the one behind the last, of the steps that do for a smooth function."""
        if self.rungs >= _LONG:
            return 3, 7
        return 0, min(_SHORT if self.ratio >= _STEEP else _SHORT - 1, self.rungs)

    def multiple(self, of_finest: int) -> Ladder:
        """A ladder of other steps that starts at a whole multiple of this one's finest: where that one's
        displacements are exact, so are these.
        """
        spared = math.ceil(math.log(of_finest) / math.log(self.ratio) - 1e-9)
        rungs = self.rungs - spared
        return Ladder(of_finest * float(self.steps[-1]) * self.ratio ** (rungs - 1), self.ratio, rungs)

    def part(self, start: int, rungs: int) -> Ladder:
        """Some rungs of this ladder."""
        start = max(0, min(start, self.rungs - rungs))
        return Ladder(self.first * self.ratio**-start, self.ratio, min(rungs, self.rungs))


def ladder_for(unit_roundoff: float) -> Ladder:
    """The ladder for a precision: long enough to reach from "far" to "only noise".

    Ratios and rungs were measured on the operations of PyTorch. The first steps are no round numbers, so that they
    don't fall in step with what a function rounds to; the ratios are powers of two, so that a displacement which is
    exact at the finest step is exact at all.
    """
    if unit_roundoff < 1e-12:  # float64
        return Ladder(0.117, 4.0, 13)
    if unit_roundoff < 1e-6:  # float32
        return Ladder(0.234, 4.0, 8)
    if unit_roundoff < 1e-3:  # float16
        return Ladder(0.468, 4.0, 5)
    return Ladder(0.936, 2.0, 6)  # bfloat16


def spacing_for(unit_roundoff: float) -> float:
    """The distance of points at which noise is looked for: so close that not even a kink is likely to lie between."""
    if unit_roundoff < 1e-12:
        return 2.0**-30
    if unit_roundoff < 1e-6:
        return 2.0**-15
    return 2.0**-9 if unit_roundoff < 1e-3 else 2.0**-7


@dataclass(frozen=True, slots=True)
class Slope:
    """Derivatives along L lines.

    Attributes
    ----------
    value : array of shape (L,)
    error : array of shape (L,)
        One standard deviation: truncation, noise and kinks together.
    noise : array of shape (L,)
        The part of the error that is the function's noise.
    kinks : array of shape (L,)
        The part that is due to kinks.
    rung : array of shape (L,)
        The rung whose step was the finest one used.

    """

    value: Array
    error: Array
    noise: Array
    kinks: Array
    rung: NDArray[np.int64]


def rounding(values: Array, unit_roundoff: float) -> Array:
    """Standard deviation of the rounding error of computed values (same shape)."""
    return np.abs(values) * (unit_roundoff * _UNIFORM_STD)


def noise_from(values: Array) -> Array:
    """Noise of L functions, from values at equally spaced points so close that nothing but noise is left.

    Third differences: what is smooth falls with the third power of the spacing, and Var(Δ³) = 20σ².

    Parameters
    ----------
    values : array of shape (M, L)
        At least four points, better seven.

    Returns
    -------
    array of shape (L,)
        Standard deviation of one value.

    References
    ----------
    Moré and Wild (2011), eq. 3.1 with k = 3.

    Examples
    --------
    >>> noise_from(np.arange(7.0)[:, None])
    array([0.])

    """
    with np.errstate(invalid="ignore", over="ignore"):
        noise: Array = np.sqrt(np.mean(np.square(np.diff(values, n=3, axis=0)), axis=0) / 20)
    return noise


def stair_height(values: Array, size: Array | None = None) -> Array:
    """Height of the steps of functions that go up in stairs, as a result rounded to fewer digits does.

    Where neighbours are equal, then differ, then are equal again, a function has stairs; the smallest difference is one
    step. A kink or a single dead zone changes once only, and a smooth function never.

    Parameters
    ----------
    values : array of shape (M, L)
        Values of L functions at M equally spaced points.
    size : array of shape (L,), optional
        The usual size of such values; their own when not given. What goes up in equal steps at every size (floor, a
        quantiser) has high ones beside the usual value, which a large value alone would hide.

    Returns
    -------
    array of shape (L,)
        Zero for a function without stairs, and for one whose steps are no rounding: higher than 10 % of that size.

    References
    ----------
    Moré and Wild (2011), section 6: where values near one another are equal, noise must be looked for farther away.

    """
    steps = np.abs(np.diff(values, axis=0))
    flat = steps == 0
    changes = np.sum(flat[1:] != flat[:-1], axis=0)
    height = np.min(np.where(flat, np.inf, steps), axis=0, initial=np.inf)
    size = np.max(np.abs(values), axis=0) if size is None else size
    with np.errstate(invalid="ignore"):
        return np.where((changes >= 2) & (height <= HIGHEST_STAIR * size), height, 0.0)


def staircase(values: Array) -> Array:
    """Height of the steps of functions that go up or down twice with a tread between, however high the steps are.

    A dead zone, a clamp or a single jump goes up once only, and what is smooth has no treads.

    Parameters
    ----------
    values : array of shape (M, L)
        Values of L functions at M equally spaced points.

    Returns
    -------
    array of shape (L,)
        That of a typical step; zero for a function without stairs.

    Examples
    --------
    >>> staircase(np.array([[0.0, 0, 0], [2, 0, 1], [2, 0, 2], [4, 1, 3]]))
    array([2., 0., 0.])

    """
    steps = np.nan_to_num(np.diff(values, axis=0))
    stairs = np.zeros(values.shape[1], dtype=bool)
    for upwards in (steps, -steps):
        risen = on_a_tread = np.zeros(values.shape[1], dtype=bool)
        for step in upwards:
            stairs |= on_a_tread & (step > 0)
            on_a_tread = risen & (step == 0)
            risen = (step > 0) | on_a_tread
    height: Array = np.sum(np.abs(steps), axis=0) / np.fmax(np.sum(steps != 0, axis=0), 1)
    return np.where(stairs, height, 0.0)


def kink_errors(even: Array, steps: Array, noise: Array) -> Array:
    """How far kinks nearby put the central difference at each step off, typically.

    A kink at a distance smaller than the step adds as much to ``(f(h) + f(−h) − 2f(0)) / 2h`` as it takes from the
    central difference's accuracy, up to the sign. What a smooth function has there, powers h and h³, is taken out with
    the next coarser steps, and so is noise.

    Parameters
    ----------
    even : array of shape (K, L)
        ``f(h) + f(−h) − 2 f(0)``.
    steps : array of shape (K,)
    noise : array of shape (L,) or (K, L)
        Standard deviation of one function value.

    Returns
    -------
    array of shape (K, L)
        Zero within noise for a smooth function.

    """
    r = steps[0] / steps[1]
    bend = even / (2 * steps[:, None])
    straight = (r * bend[1:] - bend[:-1]) / (r - 1)
    curved = (r**3 * straight[1:] - straight[:-1]) / (r**3 - 1)
    kinks = np.vstack([np.abs(bend[:1]), np.abs(straight)])
    kinks[2:] = np.fmin(kinks[2:], np.abs(curved))
    deviation = noise * (math.sqrt(6) / 2 * (r + 1) / (r - 1)) / steps[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        left: Array = np.sqrt(np.fmax(kinks**2 - _NOISE_CUT * deviation**2, 0.0))
    return left


def extrapolate(
    quotients: Array, steps: Array, noise: Array, kinks: Array | None = None, *, deepest: int = _DEEPEST
) -> Slope:
    """Richardson-extrapolate central differences to step zero and keep the entry with the least error.

    Parameters
    ----------
    quotients : array of shape (K, L)
        Central differences at steps that fall by a constant ratio; non-finite ones are passed over.
    steps : array of shape (K,)
    noise : array of shape (L,) or (K, L)
        Standard deviation of one function value.
    kinks : array of shape (K, L), optional
        Errors of each central difference from kinks, see :func:`kink_errors`.
    deepest : int
        How many powers h², h⁴, … of the truncation error are removed at most.

    Returns
    -------
    Slope
        Errors are infinite where no entry could be trusted.

    References
    ----------
    Ridders (1982), eq. 5.

    """
    rungs, lines = quotients.shape
    ratio = steps[0] / steps[1]
    unknown = np.full(lines, np.inf)
    best = Slope(np.full(lines, np.nan), unknown, unknown, unknown, np.zeros(lines, dtype=np.int64))
    table = quotients
    sigma = noise / (math.sqrt(2) * steps[:, None])
    bent = np.zeros_like(quotients) if kinks is None else kinks
    for depth in range(min(deepest, rungs - 1) + 1):
        # How far an entry still moved: against its coarser neighbour, and against the entry that it was made from.
        if depth == 0:
            moved = np.abs(table[1:] - table[:-1]) / (ratio**2 - 1) * _DISTRUST_PLAIN
            best = _better(best, table[1:], moved, sigma[1:], bent[1:], first=1)
        else:
            power = ratio ** (2 * depth)
            made = (power * table[1:] - table[:-1]) / (power - 1)
            sigma, bent = (np.hypot(power * e[1:], e[:-1]) / (power - 1) for e in (sigma, bent))
            from_parent = np.abs(made - table[1:])
            from_neighbour = np.vstack([_DISTRUST_FIRST * from_parent[:1], np.abs(np.diff(made, axis=0))])
            best = _better(best, made, np.fmax(from_parent, from_neighbour) / ratio, sigma, bent, first=depth)
            table = made
    return best


def _better(best: Slope, entries: Array, moved: Array, sigma: Array, bent: Array, *, first: int) -> Slope:
    """The best slope so far, or an entry of this column with a smaller error."""
    total = np.sqrt(moved**2 + sigma**2 + bent**2)
    total = np.where(np.isfinite(total) & np.isfinite(entries), total, np.inf)
    at = np.argmin(total, axis=0)
    pick = (at, np.arange(entries.shape[1]))
    better = total[pick] < best.error
    return Slope(
        np.where(better, entries[pick], best.value),
        np.where(better, total[pick], best.error),
        np.where(better, sigma[pick], best.noise),
        np.where(better, bent[pick], best.kinks),
        np.where(better, at + first, best.rung),
    )


def derivative(function: Callable[[float], float], at: float, *, scale: float | None = None) -> Slope:
    """Differentiate a float64 function of one number.

    Parameters
    ----------
    function : callable
        float to float.
    at : float
        Where.
    scale : float, optional
        The size of ``at`` over which the function changes; |at|, or 1 at zero.

    Returns
    -------
    Slope
        With arrays of shape (1,).

    Examples
    --------
    >>> slope = derivative(lambda theta: theta**2, 3.0)
    >>> bool(abs(slope.value[0] - 6) < 5 * slope.error[0] < 1e-9)
    True

    """
    unit = 2.0**-53
    size = scale or abs(at) or 1.0
    ladder = ladder_for(unit)
    unit_step = 2.0 ** round(math.log2(size))
    steps = ladder.steps * unit_step
    centre = function(at)
    plus, minus = (np.array([[function(at + sign * h)] for h in steps]) for sign in (1, -1))
    spacing, stairs = spacing_for(unit), np.zeros(1)
    near = values = np.array([[function(at + k * spacing * unit_step)] for k in NEARBY])
    while spacing < FARTHEST_STAIR and (np.diff(values, axis=0) == 0).any():
        spacing *= 4
        values = np.array([[function(at + k * spacing * unit_step)] for k in NEARBY])
        stairs = np.fmax(stairs, stair_height(values))
    noise = np.fmax(np.fmax(rounding(np.array([centre]), unit), noise_from(near)), stairs / math.sqrt(12))
    quotients = (plus - minus) / (2 * steps[:, None])
    return extrapolate(quotients, steps, noise, kink_errors(plus + minus - 2 * centre, steps, noise))
