"""What an elementwise function makes of many Gaussian variables: moments, and the kernel of every two of them.

Moments are integrals at fixed points. Correlations go through the Hermite expansion of the function (Mehler's formula):
E[f(z)f(z′)] = Σₖ aₖ a′ₖ cᵏ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.maths.mehler import ORDER, kernel

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Coefficients whose squares are less than this share of the second moment are dropped.
_NEGLIGIBLE = 1e-9
#: Standard deviations to integrate over: what lies beyond has probability 1.2·10⁻¹⁵.
_REACH = 8.0
#: Panels per standard deviation and points per panel: the error is below 1e-4 at a kink, 1e-10 elsewhere (tested).
_PANELS, _POINTS = 4, 6
#: Values beyond this, whose fourth power overflows, count as infinite.
_LARGEST = 1e75
#: What interpolation over variances may get wrong, relative: well below the integrals' own error.
_INTERPOLATED = 1e-11
#: A Gaussian expectation is analytic in the logarithm of the variance up to this far from the real axis: there the
#: real part of 1/v is zero, and the density no longer falls.
_ANALYTIC = math.pi / 2
#: In the mean, by standard deviations, it is entire; up to here from the real axis it grows by √e at most.
_ANALYTIC_SHIFT = 1.0
#: Rows from which on interpolating is worth while, and more nodes than it is ever worth.
_FEW, _MOST = 20, 2000


@dataclass(frozen=True, slots=True)
class Expansion:
    """What an elementwise function makes of Gaussian variables z ~ N(m, v), one per row.

    Parameters
    ----------
    mean, second, fourth : array of shape (n,)
        E[f], E[f²] and E[f⁴].
    coefficients : array of shape (n, K)
        E[f(z) hₖ((z − m)/√v)] with orthonormal Hermite polynomials hₖ.

    """

    mean: Array
    second: Array
    fourth: Array
    coefficients: Array

    def kernel(self, correlation: Array, between: Array | None = None) -> Array:
        """E[f(zᵢ)f(zⱼ)] for all pairs of rows, from the symmetric (n, n) correlations of z; one row stands for all.

        Where there are more places than rows, ``between`` says how each place's row is mixed of these.

        >>> import numpy as np
        >>> relu = expand(lambda z: np.maximum(z, 0), np.zeros(2), np.ones(2))
        >>> relu.kernel(np.array([[1.0, 0.0], [0.0, 1.0]])).round(4)
        array([[0.5   , 0.1592],
               [0.1592, 0.5   ]])
        """
        return kernel(self.coefficients, self.second, correlation, between)

    def derivative(self, variance: Array, second: Array, fourth: Array) -> Expansion:
        """The expansion of f′, whose own second and fourth moments are known from elsewhere (Stein's lemma)."""
        order = np.sqrt(np.arange(1, self.coefficients.shape[1]))
        a = self.coefficients[:, 1:] * order / np.sqrt(np.maximum(variance, 1e-300))[:, None]
        mean = a[:, 0] if a.shape[1] else np.zeros_like(second)
        carried = np.einsum("nk,nk->n", a, a)
        # Far beyond the kink's resolution the derivative's tail may exceed its second moment by rounding.
        a = a * np.sqrt(np.minimum(1.0, second / np.maximum(carried, np.maximum(second, 1e-300))))[:, None]
        return Expansion(mean, second, fourth, a)


class Values:
    """An elementwise function at the points of the integrals, for some rows of z ~ N(mean, variance).

    Parameters
    ----------
    f : callable
        Elementwise on a float64 array. Values that are not finite are left out of expectations.
    mean, variance : array of shape (n,)

    """

    def __init__(self, f: Callable[[Array], Array], mean: Array, variance: Array) -> None:
        with np.errstate(all="ignore"):  # values that overflow are left out
            self._values, self._masses = _values(f, mean, variance)

    def expansion(self, rows: slice = slice(None), order: int = ORDER, *, squared: bool = False) -> Expansion:
        """Moments and Hermite coefficients of some rows, of the function or its square."""
        values = self._values[rows] ** 2 if squared else self._values[rows]
        with np.errstate(all="ignore"):
            return _expanded(values, self._masses[rows] if self._masses is not None else None, order)

    def even_moments(self, rows: slice = slice(None)) -> tuple[Array, Array]:
        """E[f²] and E[f⁴] of some rows."""
        masses = self._masses[rows] if self._masses is not None else None
        with np.errstate(all="ignore"):
            return _even(self._values[rows], masses)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Few rows between which many are interpolated, in the logarithm of the variance and the mean's deviations.

    Parameters
    ----------
    mean, variance : array of shape (m,)
        Where to evaluate.
    shares : sequence of arrays
        The share of each in each row: of shape (n, m), or two factors of shapes (n, m₁) and (n, m₂) with m = m₁·m₂.
        None where they are the rows.

    """

    mean: Array
    variance: Array
    shares: tuple[Array, ...] = ()

    @classmethod
    def of(cls, mean: Array, variance: Array) -> Nodes:
        """As few as give what all rows would, to 1e-11 where the integrals are as good as that.

        >>> import numpy as np
        >>> few = Nodes.of(np.zeros(100), np.linspace(0.9, 1.1, 100))
        >>> len(few.variance) < 12, bool(np.allclose(few.spread(few.variance**2), np.linspace(0.9, 1.1, 100) ** 2))
        (True, True)
        """
        if len(mean) < _FEW or not variance.min() > 0:
            return cls(mean, variance)
        sizes = _Interpolation.of(np.log(variance), _ANALYTIC)
        if mean.min() == mean.max():
            if 2 * len(sizes.nodes) <= len(mean):
                variances = np.exp(sizes.nodes)
                return cls(np.full(len(variances), mean[0]), variances, (sizes.weights(),))
            return cls(mean, variance)
        shifts = _Interpolation.of(mean / np.sqrt(variance), _ANALYTIC_SHIFT)
        count = len(shifts.nodes) * len(sizes.nodes)
        if 2 * count > len(mean):
            return cls(mean, variance)
        variances = np.tile(np.exp(sizes.nodes), len(shifts.nodes))
        means = np.repeat(shifts.nodes, len(sizes.nodes)) * np.sqrt(variances)
        return cls(means, variances, (shifts.weights(), sizes.weights()))

    @property
    def between(self) -> Array | None:
        """The share of each node in each row, (n, m); None where they are the rows."""
        if len(self.shares) == 2:
            return (self.shares[0][:, :, None] * self.shares[1][:, None, :]).reshape(len(self.shares[0]), -1)
        return self.shares[0] if self.shares else None

    def spread(self, values: Array) -> Array:
        """What is known at the nodes, at all rows, without the matrix of all shares."""
        if len(self.shares) == 2:
            one, two = self.shares
            across = one @ values.reshape(one.shape[1], two.shape[1])
            return np.asarray(np.einsum("nj,nj->n", across, two))
        return self.shares[0] @ values if self.shares else values


@dataclass(frozen=True, slots=True)
class _Interpolation:
    """Barycentric interpolation between Chebyshev points of the second kind (Berrut and Trefethen, 2004, eq. 5.4)."""

    points: Array
    nodes: Array
    factors: Array

    @classmethod
    def of(cls, points: Array, analytic: float) -> _Interpolation:
        """As many nodes as a function needs that is analytic so far from the real axis (Trefethen, 2013, thm. 8.2)."""
        low, high = float(points.min()), float(points.max())
        half = max((high - low) / 2, 1e-6)
        rho = analytic / half + math.hypot(analytic / half, 1.0)
        count = min(math.ceil(-math.log(_INTERPOLATED) / math.log(rho)) + 2, _MOST)
        nodes = (low + high) / 2 + half * np.cos(np.pi * np.arange(count) / (count - 1))
        factors = np.where(np.arange(count) % 2, -1.0, 1.0)
        factors[[0, -1]] /= 2
        return cls(points, nodes, factors)

    def weights(self) -> Array:
        """The share of each node in the value at each point, (points, nodes)."""
        apart = self.points[:, None] - self.nodes
        hit = apart == 0
        if hit.any():
            apart[hit] = 1.0
        terms = self.factors / apart
        exact = hit.any(axis=1)
        terms[exact] = hit[exact]
        terms /= terms.sum(axis=1, keepdims=True)
        return np.asarray(terms)


def expand(f: Callable[[Array], Array], mean: Array, variance: Array, order: int = ORDER) -> Expansion:
    """Moments and Hermite coefficients of f(z) for z ~ N(mean, variance), row by row.

    Parameters
    ----------
    f : callable
        Elementwise on a float64 array. Values that are not finite are left out of the expectation.
    mean, variance : array of shape (n,)
    order : int
        The number of coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> square = expand(np.square, np.zeros(1), np.full(1, 2.0))
    >>> square.mean.round(6), square.second.round(6)
    (array([2.]), array([12.]))

    References
    ----------
    Daniely, Frostig and Singer (2016), section 4: the dual activation.

    """
    return Values(f, mean, variance).expansion(order=order)


def even_moments(f: Callable[[Array], Array], mean: Array, variance: Array) -> tuple[Array, Array]:
    """E[f²] and E[f⁴] for z ~ N(mean, variance), row by row: what :func:`expand` has, for less than half its time.

    >>> import numpy as np
    >>> second, fourth = even_moments(lambda z: z, np.zeros(1), np.full(1, 2.0))
    >>> second.round(6), fourth.round(6)
    (array([2.]), array([12.]))
    """
    return Values(f, mean, variance).even_moments()


def _expanded(values: Array, masses: Array | None, order: int) -> Expansion:
    _, weights, polynomials, weighted = _standard_rule()
    squares = values * values
    if masses is None:
        coefficients = values @ weighted[:order].T
        second, fourth = squares @ weights, (squares * squares) @ weights
    else:
        coefficients = (values * masses) @ polynomials[:order].T
        second, fourth = (squares * masses).sum(axis=1), (squares * squares * masses).sum(axis=1)
    largest = (coefficients**2 - _NEGLIGIBLE * second[:, None]).max(axis=0)
    kept = int(np.max(np.nonzero(largest > 0)[0], initial=0)) + 1
    return Expansion(coefficients[:, 0].copy(), second, fourth, coefficients[:, :kept])


def _even(values: Array, masses: Array | None) -> tuple[Array, Array]:
    squares = values * values
    if masses is None:
        weights = _standard_rule()[1]
        return squares @ weights, (squares * squares) @ weights
    return (squares * masses).sum(axis=1), (squares * squares * masses).sum(axis=1)


def _values(f: Callable[[Array], Array], mean: Array, variance: Array) -> tuple[Array, Array | None]:
    """The function at the points of the rule, and by row the points' weights where values had to be left out."""
    z, weights = _standard_rule()[:2]
    values = np.asarray(f(mean[:, None] + np.sqrt(np.maximum(variance, 0.0))[:, None] * z), dtype=np.float64)
    if values.shape != (len(mean), len(z)):
        values = np.broadcast_to(values, (len(mean), len(z)))
    if max(values.max(initial=0.0), -values.min(initial=0.0)) < _LARGEST:  # not so where anything is NaN
        return values, None
    finite = np.abs(values) < _LARGEST
    masses = weights * finite
    return np.where(finite, values, 0.0), masses / np.maximum(masses.sum(axis=1, keepdims=True), 1e-300)


@functools.lru_cache(maxsize=1)
def _standard_rule() -> tuple[Array, Array, Array, Array]:
    """Points and weights for N(0, 1), and the orthonormal Hermite polynomials there, without and with the weights."""
    ends = np.linspace(-_REACH, _REACH, int(2 * _REACH * _PANELS) + 1)
    nodes, node_weights = np.polynomial.legendre.leggauss(_POINTS)
    half = (ends[1] - ends[0]) / 2
    z = ((ends[:-1] + ends[1:])[:, None] / 2 + half * nodes).ravel()
    weights = np.tile(half * node_weights, len(ends) - 1) * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    weights /= weights.sum()
    polynomials = [np.ones_like(z), z]
    for k in range(1, ORDER):
        polynomials.append((z * polynomials[-1] - math.sqrt(k) * polynomials[-2]) / math.sqrt(k + 1))
    known = np.array(polynomials[:ORDER])
    return z, weights, known, known * weights
