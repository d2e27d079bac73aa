"""How large an error must be for random lines to show it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

#: The chance of overlooking an error as large as the stated resolution.
OVERLOOK = 0.005
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
