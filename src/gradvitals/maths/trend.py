"""The factor by which a positive quantity changes per step, robustly, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.vocabulary.finding import Estimate

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: Fewer points than this have no trend that an interval could be put on.
MINIMUM = 4
#: Quantile of the normal distribution for a two-sided interval of 95 %.
_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class LogGain:
    """A gain per step: the factor itself, the ends of its 95 % interval, and the number of points behind it."""

    gain: float
    low: float
    high: float
    points: int

    @property
    def estimate(self) -> Estimate:
        """The gain with half the width of its interval."""
        return Estimate(self.gain, (self.high - self.low) / 2)

    @property
    def differs_from_one(self) -> bool:
        """Whether the interval excludes a gain of 1."""
        return self.low > 1 or self.high < 1

    def over(self, steps: float) -> float:
        """The factor after several steps; 0 or infinity where it leaves the range of floats.

        >>> round(LogGain(0.9, 0.9, 0.9, 20).over(20), 4), round(LogGain(1.2, 1.2, 1.2, 20).over(20), 1)
        (0.1216, 38.3)
        """
        try:
            return float(self.gain**steps)
        except OverflowError:
            return math.inf


def log_gain(values: Sequence[float], positions: Sequence[float] | None = None) -> LogGain | None:
    """Fit values = constant · gain^position by the median of all pairwise slopes of the logarithms.

    Parameters
    ----------
    values : sequence of float
        Of shape (L,); those that are zero, negative or not finite are left out.
    positions : sequence of float, optional
        Of shape (L,), strictly increasing; 0, 1, 2, … when not given.

    Returns
    -------
    LogGain or None
        None where fewer than :data:`MINIMUM` values are left.

    Raises
    ------
    ValueError
        When positions aren't strictly increasing, or not as many as values.

    Notes
    -----
    The interval covers two ways in which layers scatter. Independently around a line: Sen's distribution-free interval.
    Adding up from layer to layer (a random walk), as the scale of a deep network of finite width does: the error of the
    mean step, from the steps' long-run variance (Bartlett weights, the quantile of Kiefer and Vogelsang). The wider of
    the two is given; Sen's alone would cover the truth in a third of random walks of 20 steps.

    References
    ----------
    Theil (1950); Sen (1968), eq. 2.6 and section 5; Newey and West (1987); Kiefer and Vogelsang (2005), table 1.

    Examples
    --------
    >>> fit = log_gain([0.9**layer for layer in range(20)])
    >>> round(fit.gain, 6), fit.differs_from_one
    (0.9, True)

    """
    x = np.arange(len(values), dtype=np.float64) if positions is None else np.asarray(positions, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or bool((np.diff(x) <= 0).any()):
        raise ValueError(f"positions must increase strictly, one per value; got {len(x)} for {len(y)} values")
    usable = np.isfinite(y) & (y > 0)
    if usable.sum() < MINIMUM:
        return None
    x, y = x[usable], np.log(y[usable])
    slope, below, above = _sen(x, y)
    drift = _drift_error(x, y)
    low, high = slope - max(below, drift), slope + max(above, drift)
    return LogGain(_exp(slope), _exp(low), _exp(high), points=len(y))


def _sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median of the pairwise slopes, and how far below and above it Sen's interval reaches."""
    first, second = np.triu_indices(len(x), 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    n, pairs = len(x), len(slopes)
    spread = _NORMAL_95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)  # of Kendall's S without a trend
    lower = max(math.floor((pairs - spread) / 2), 0)
    middle = float(np.median(slopes))
    return middle, middle - float(slopes[lower]), float(slopes[pairs - 1 - lower]) - middle


def _drift_error(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Half the 95 % interval of a slope whose steps are what scatters, whether independently or not."""
    gaps = np.diff(x)
    steps = (np.diff(y) - (y[-1] - y[0]) / (x[-1] - x[0]) * gaps) / np.sqrt(gaps)
    n = len(steps)
    lags = max(1, n // 4)
    variance = float(np.mean(steps * steps))
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(np.sum(steps[lag:] * steps[:-lag])) / n
    share = (lags + 1) / n
    quantile = _NORMAL_95 + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3  # Kiefer and Vogelsang, Bartlett
    # 6/5: the variance of a least-squares or Theil–Sen slope of a random walk against that of its mean step
    return quantile * math.sqrt(1.2 * max(variance, 0.0) / float(x[-1] - x[0]))


def _exp(value: float) -> float:
    """exp, with infinity in place of an overflow."""
    return math.exp(value) if value < 709 else math.inf
