"""How much of its weight a softmax of Gaussian scores puts on single keys: E[Σ aᵢ²]."""

from __future__ import annotations

import functools
import math

import numpy as np

#: Steps in which the logarithm of the number of keys, and the variance, are tabulated.
_KEYS_STEP, _VARIANCE_STEP = 0.05, 0.05


def correction(keys: float, variance: float) -> float:
    """E[Σ aᵢ²] relative to its first-order value e^v/(n + e^v − 1), for n independent keys of score variance v.

    >>> round(correction(16, 0.0), 3), round(correction(16, 1.0), 2)
    (1.0, 0.88)
    """
    at = round(math.log(max(keys, 1.0)) / _KEYS_STEP), round(max(variance, 0.0) / _VARIANCE_STEP)
    return _tabulated(*at)


@functools.lru_cache(maxsize=4096)
def _tabulated(keys: int, variance: int) -> float:
    """One key against the sum of all others, which is taken as log-normal."""
    n, v = math.exp(keys * _KEYS_STEP), variance * _VARIANCE_STEP
    if v == 0 or n <= 1:
        return 1.0
    grid = np.linspace(-8.0, 8.0, 201)
    density = np.exp(-(grid**2) / 2)
    density /= density.sum()
    others, spread = (n - 1) * math.exp(v / 2), (n - 1) * math.exp(v) * math.expm1(v)
    log_variance = math.log1p(spread / others**2)
    rest = np.exp(math.log(others) - log_variance / 2 + math.sqrt(log_variance) * grid[::4])
    weight = density[::4] / density[::4].sum()
    own = np.exp(math.sqrt(v) * grid)
    share = n * float(density @ ((own[:, None] / (own[:, None] + rest)) ** 2) @ weight)
    return share / (math.exp(v) / (n + math.expm1(v)))
