"""The exponent by which a positive quantity grows with a size, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Fewer points than this have no scatter around a line that an interval could be put on.
MINIMUM = 3
#: Quantile of the normal distribution for a two-sided interval of 95 %.
_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """value = constant · size^exponent: the exponent, half its interval of 95 %, and the number of points behind it."""

    exponent: float
    error: float
    points: int

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.exponent - self.error


def power_law(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw | None:
    """Fit a straight line through the logarithms by least squares.

    Parameters
    ----------
    sizes : sequence of float
        Of shape (N,), positive; several values at one size (seeds) are welcome.
    values : sequence of float
        Of shape (N,); those that are zero, negative or not finite are left out.

    Returns
    -------
    PowerLaw or None
        None where fewer than :data:`MINIMUM` values or fewer than two sizes are left.

    Notes
    -----
    The interval is that of Student's t with the scatter around the line, in which seeds enter, and also how far the
    sizes are from a power law.

    References
    ----------
    Draper and Smith (1998), section 1.4; Abramowitz and Stegun (1964), eq. 26.7.5, on the quantile.

    Examples
    --------
    >>> fit = power_law([64, 128, 256, 512], [8.0, 11.0, 16.5, 22.0])
    >>> round(fit.exponent, 2), fit.error < 0.2
    (0.5, True)

    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    usable = np.isfinite(y) & (y > 0)
    x, y = np.log(x[usable]), np.log(y[usable])
    if len(x) < MINIMUM or np.ptp(x) == 0:
        return None
    around = x - x.mean()
    spread = float(around @ around)
    slope = float(around @ y) / spread
    rest = y - y.mean() - slope * around
    freedom = len(x) - 2
    error = student_95(freedom) * math.sqrt(float(rest @ rest) / freedom / spread)
    return PowerLaw(slope, error, len(x))


def student_95(freedom: int) -> float:
    """The two-sided quantile of 95 % of Student's t; exact for one and two degrees of freedom, else to 1 %.

    >>> [round(student_95(n), 2) for n in (1, 2, 4, 10, 1000)]
    [12.71, 4.3, 2.77, 2.23, 1.96]
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, n = _NORMAL_95, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
