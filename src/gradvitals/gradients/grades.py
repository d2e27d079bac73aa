"""The relative error of two gradients, and the four grades that courses give it."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Upper boundary of each grade, finest first (the course notes behind Stanford's CS231n and DeepLearning.AI teach the
#: same decades).
GRADES: tuple[tuple[str, float], ...] = (
    ("exact", 1e-7),
    ("acceptable", 1e-4),
    ("suspicious", 1e-2),
    ("large", float("inf")),
)


def relative_error(numeric: Any, analytic: Any) -> float:
    """Compare two gradients by ‖numeric − analytic‖ / (‖numeric‖ + ‖analytic‖) in 2-norms; 0/0 is 0.

    Parameters
    ----------
    numeric, analytic : array_like
        Of the same shape.

    Returns
    -------
    float
        Between 0 (equal) and 1 (opposite, or one of them zero).

    Examples
    --------
    >>> relative_error([6.0, 0.0], [6.0, 0.0])
    0.0
    >>> relative_error([1.0], [-1.0])
    1.0

    """
    num = np.asarray(numeric, dtype=np.float64)
    bp = np.asarray(analytic, dtype=np.float64)
    size = float(np.linalg.norm(num.ravel()) + np.linalg.norm(bp.ravel()))
    return float(np.linalg.norm((num - bp).ravel())) / size if size else 0.0


def grade(error: float, resolution: float = 0.0) -> str | None:
    """Grade a relative error, or None where the numeric value itself is coarser than the grade's boundary.

    Parameters
    ----------
    error : float
        A relative error.
    resolution : float
        The relative error of the numeric value itself.

    Examples
    --------
    >>> [grade(error) for error in (1e-9, 1e-5, 1e-3, 0.5)]
    ['exact', 'acceptable', 'suspicious', 'large']
    >>> grade(1e-9, resolution=1e-5) is None
    True

    """
    boundary = 0.0
    for name, upper in GRADES:
        if error < upper:
            limit = upper if np.isfinite(upper) else boundary
            return name if resolution < limit else None
        boundary = upper
    return None
