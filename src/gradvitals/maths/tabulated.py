"""Activations that are known by their values at some points."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gradvitals.maths.activations import NAMES, Activation, Array, activation

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

Indices: TypeAlias = "NDArray[np.intp]"

#: Shares of the largest value by which tables of the same function may differ.
_SAME = 1e-4
#: A kink changes the slope by this share of the largest one at least, and by so many times what its neighbours do.
_KINK, _SHARPER = 0.02, 5.0


def from_table(inputs: Array, values: Array, *, precision: float = 0.0) -> Activation | None:
    """The function through a table: one that has a name where it is that one, else piecewise cubic, straight beyond.

    Parameters
    ----------
    inputs, values : array
        Inputs rising, on both sides of zero.
    precision : float
        Relative error of the values.

    Returns
    -------
    Activation or None
        None of a straight line.

    Examples
    --------
    >>> x = np.linspace(-8, 8, 161)
    >>> from_table(x, np.maximum(x, 0)).name, from_table(x, np.sin(x)).name, from_table(x, 2 * x + 1)
    ('relu', 'elementwise', None)
    >>> bool(abs(from_table(x, np.sin(x)).value(np.array([0.234]))[0] - np.sin(0.234)) < 2e-5)
    True

    """
    tolerance = max(_SAME, 4 * precision) * float(np.max(np.abs(values)))
    straight = np.polynomial.Polynomial.fit(inputs, values, 1)(inputs)
    if np.max(np.abs(values - straight)) <= tolerance:
        return None
    rectified = _rectified(inputs, values, tolerance)
    if rectified is not None:
        return rectified
    for name in NAMES:
        if np.max(np.abs(activation(name).value(inputs) - values)) <= tolerance:
            return activation(name)
    return _interpolated(inputs, values)


def alike(one: Activation, other: Activation, *, reach: float = 5.0) -> bool:
    """Whether two functions are the same between −reach and reach, but for a thousandth of their largest value.

    >>> alike(activation("gelu"), activation("gelu_tanh")), alike(activation("gelu"), activation("silu"))
    (True, False)
    """
    x = np.linspace(-reach, reach, 201)
    first, second = one.value(x), other.value(x)
    return bool(np.max(np.abs(first - second)) <= 1e-3 * np.max(np.abs(first)))


def _rectified(x: Array, values: Array, tolerance: float) -> Activation | None:
    """The two slopes of a function that is straight on either side of zero."""
    up, down = float(values[-1] / x[-1]), float(values[0] / x[0])
    if np.max(np.abs(np.where(x > 0, up, down) * x - values)) > tolerance:
        return None
    up, down = (round(slope, 6) for slope in (up, down))
    if (up, down) == (1.0, 0.0):
        return activation("relu")
    return Activation(
        "leaky_relu", lambda z: np.where(z > 0, up, down) * z, lambda z: np.where(z > 0, up, down), (0.0,)
    )


def _interpolated(x: Array, values: Array) -> Activation:
    """Cubics that share value and slope where they meet, but at kinks."""
    steps = np.diff(x)
    secants = np.diff(values) / steps
    kinks = _kinks(secants)
    slopes = np.concatenate([secants[:1], _middle(steps, secants), secants[-1:]])
    left, right = slopes[:-1].copy(), slopes[1:].copy()
    left[kinks[kinks < len(steps)]] = secants[kinks[kinks < len(steps)]]
    right[kinks - 1] = secants[kinks - 1]

    def parts(z: Array) -> tuple[Indices, Array]:
        at = np.clip(np.searchsorted(x, z, side="right") - 1, 0, len(steps) - 1)
        return at, np.clip((z - x[at]) / steps[at], 0.0, 1.0)

    def value(z: Array) -> Array:
        at, t = parts(z)
        ends = values[at] * (1 + 2 * t) * (1 - t) ** 2 + values[at + 1] * t**2 * (3 - 2 * t)
        bends = steps[at] * (left[at] * t * (1 - t) ** 2 - right[at] * t**2 * (1 - t))
        beyond = np.minimum(z - x[0], 0.0) * slopes[0] + np.maximum(z - x[-1], 0.0) * slopes[-1]
        return np.asarray(ends + bends + beyond, dtype=np.float64)

    def slope(z: Array) -> Array:
        at, t = parts(z)
        middle = 6 * t * (1 - t) * secants[at]
        return np.asarray(middle + left[at] * (1 - t) * (1 - 3 * t) + right[at] * t * (3 * t - 2), dtype=np.float64)

    return Activation("elementwise", value, slope, tuple(float(x[kink]) for kink in kinks))


def _middle(steps: Array, secants: Array) -> Array:
    """Slopes at inner points, of the parabola through three neighbours."""
    return (secants[:-1] * steps[1:] + secants[1:] * steps[:-1]) / (steps[:-1] + steps[1:])


def _kinks(secants: Array) -> Indices:
    """Points where the slope jumps, and around which it doesn't."""
    jumps = np.abs(np.diff(secants))
    around = np.maximum(np.concatenate([[0.0], jumps[:-1]]), np.concatenate([jumps[1:], [0.0]]))
    sharp = (jumps > _KINK * np.max(np.abs(secants))) & (jumps > _SHARPER * around)
    return np.flatnonzero(sharp) + 1
