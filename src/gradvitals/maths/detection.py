"""How large an error must be for random lines to show it, and how large one can be that they don't show."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

#: The chance of overlooking an error as large as the stated resolution.
OVERLOOK = 0.005
#: The chance of taking noise for an error.
_BY_CHANCE = 0.001
#: No single line counts for more: a kink nearby may have bent it.
_FROM_ONE_LINE = 3.0
#: Relative to the widest of several bars, smaller errors aren't looked for.
_LEAST = 1e-15
#: Of the ratio between the largest and the smallest error, whose logarithm is 48: what is left of it is 1e-10.
_HALVINGS = 40


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
    >>> round(detectable((1.0,) * 6), 2)
    1.84

    """
    return _detectable(tuple(bars))


@functools.lru_cache(maxsize=64)  # all tensors of a group ask for the same
def _detectable(bars: tuple[float, ...]) -> float:
    finite = [bar for bar in bars if math.isfinite(bar)]
    if not finite:
        return math.inf
    unit = max(finite)
    if unit == 0:
        return 0.0
    relative = [bar / unit for bar in finite]
    low, high = _LEAST, 1e6
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        overlooked = math.prod(math.erf(bar / (middle * math.sqrt(2))) for bar in relative)
        low, high = (middle, high) if overlooked > OVERLOOK else (low, middle)
    return high * unit


def hidden(missing: Sequence[float], *, looks: int = 1) -> float:
    """The largest error that may hide behind what random lines miss: an upper bound at 99.5 %.

    Along normal directions an error of size ρ is missing as N(0, ρ²), and noise that has nothing to do with it makes
    no line smaller (Anderson, 1955): Σ missing² is below ρ² times the 0.5 % quantile of χ² with as many degrees of
    freedom as lines in one case of 200 at most, however noisy the lines are.

    Parameters
    ----------
    missing : sequence of float
        What is missing along each line: measured slope less claimed one.
    looks : int
        How often this is asked as lines are added: together the answers are wrong in one case of 200 at most.

    References
    ----------
    Anderson (1955), The integral of a symmetric unimodal function, Proc. AMS 6, theorem 1.

    Examples
    --------
    >>> round(hidden((0.1,) * 8), 3)
    0.244

    """
    if not missing:
        return math.inf
    return math.hypot(*missing) / math.sqrt(_chi_square_quantile(len(missing), OVERLOOK / looks))


def shows(missing: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether lines miss more together than their standard errors allow in 999 of 1000 cases.

    Parameters
    ----------
    missing, errors : sequence of float
        Of each line; errors above zero count.

    Examples
    --------
    >>> shows((2.0,) * 8, (1.0,) * 8), shows((1.0,) * 8, (1.0,) * 8)
    (True, False)

    """
    ratios = [abs(m / e) for m, e in zip(missing, errors, strict=True) if e > 0 and math.isfinite(m / e)]
    together = sum(min(ratio, _FROM_ONE_LINE) ** 2 for ratio in ratios)
    return bool(ratios) and together > _chi_square_quantile(len(ratios), 1 - _BY_CHANCE)


@functools.lru_cache(maxsize=64)
def _chi_square_quantile(freedom: int, share: float) -> float:
    """Below it lies this share of χ²; by halving, for its distribution has no inverse in closed form."""
    low, high = 0.0, 10.0 * freedom + 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _chi_square(middle, freedom) > share else (middle, high)
    return high


def _chi_square(x: float, freedom: int) -> float:
    """The distribution function of χ² (Abramowitz and Stegun, 1964, eq. 26.4.6)."""
    term = math.exp(freedom / 2 * math.log(x / 2) - x / 2 - math.lgamma(freedom / 2 + 1)) if x > 0 else 0.0
    total, at = 0.0, freedom
    while term > total * 1e-16:
        total += term
        at += 2
        term *= x / at
    return total
