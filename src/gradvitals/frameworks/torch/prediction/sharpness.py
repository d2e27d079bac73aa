"""How sharp a softmax of Gaussian scores is, and how much of a gradient it lets through to the scores.

For n independent keys with scores of variance v the weights are a = x/Σx with log-normal x. Moments of such ratios are
one-dimensional integrals, as 1/(Σx)ᵏ = ∫ tᵏ⁻¹ exp(−t Σx) dt / (k − 1)!, in which the keys fall apart.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

#: Steps in which the logarithm of the number of keys, and the variance, are tabulated.
_KEYS_STEP, _VARIANCE_STEP = 0.05, 0.05
#: Standard deviations and points of the integral over a score, and over the logarithm of t.
_REACH, _SCORES, _TIMES = 8.0, 161, 161
#: Fewer keys than this are one key.
_ONE_KEY = 1.02


def correction(keys: float, variance: float) -> float:
    """E[Σ aᵢ²] relative to its first-order value e^v/(n + e^v − 1), for n independent keys of score variance v.

    >>> round(correction(16, 0.0), 3), round(correction(16, 1.0), 2)
    (1.0, 0.86)
    """
    squares, _ = _tabulated(*_place(keys, variance))
    return squares / _first_order(keys, variance)


def passed_on(keys: float, variance: float) -> float:
    """E[Σ aᵢ² (1 − 2aᵢ + Σ aⱼ²)], what reaches the scores, relative to its first order with the corrected E[Σ aᵢ²].

    >>> round(passed_on(16, 0.0), 3), round(passed_on(16, 1.0), 2)
    (1.0, 0.76)
    """
    n = _n(keys)
    if n < _ONE_KEY:
        return 1.0
    squares, slopes = _tabulated(*_place(keys, variance))
    return slopes / max(squares - _first_order(keys, variance) / n, 1e-300)


def places(keys: Array, variance: Array) -> Array:
    """One number for each place in the table: those that share one have the same answers."""
    rows = np.round(np.log(np.maximum(keys, 1.0)) / _KEYS_STEP)
    return rows * 1e6 + np.round(np.maximum(variance, 0.0) / _VARIANCE_STEP)


def _place(keys: float, variance: float) -> tuple[int, int]:
    return round(math.log(max(keys, 1.0)) / _KEYS_STEP), round(max(variance, 0.0) / _VARIANCE_STEP)


def _n(keys: float) -> float:
    return math.exp(_place(keys, 0.0)[0] * _KEYS_STEP)


def _first_order(keys: float, variance: float) -> float:
    v = _place(keys, variance)[1] * _VARIANCE_STEP
    return math.exp(v) / (_n(keys) + math.expm1(v))


@functools.lru_cache(maxsize=4096)
def _tabulated(keys: int, variance: int) -> tuple[float, float]:
    """E[Σ aᵢ²] and E[Σ aᵢ² (1 − 2aᵢ + Σ aⱼ²)]."""
    n, v = math.exp(keys * _KEYS_STEP), variance * _VARIANCE_STEP
    if v == 0 or n < _ONE_KEY:
        return 1 / n, (1 - 1 / n) / n
    z = np.linspace(-_REACH, _REACH, _SCORES)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    deviation = math.sqrt(v)
    x = np.exp(deviation * z)
    # t runs from where the sum of all keys is largest to where the largest power of one key is smallest.
    span = _REACH * deviation + 4 * v
    log_t = np.linspace(-span - math.log(n) - 8, span + 4, 2 * _TIMES)
    t, step = np.exp(log_t), log_t[1] - log_t[0]
    decay = np.exp(-np.minimum(t[:, None] * x, 700.0)) * density
    m = [decay @ x**k for k in range(5)]
    others = np.maximum(m[0], 1e-300)
    squares = n * step * float((t**2 * m[2] * others ** (n - 1)).sum())
    cubes = n * step * float((t**3 / 2 * m[3] * others ** (n - 1)).sum())
    fourths = n * step * float((t**4 / 6 * m[4] * others ** (n - 1)).sum())
    pairs = n * (n - 1) * step * float((t**4 / 6 * m[2] ** 2 * others ** (n - 2)).sum())
    return float(squares), float(squares - 2 * cubes + fourths + pairs)
