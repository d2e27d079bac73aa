"""Mean-field theory of a wide layer: what an activation makes of variance, correlation and gradient.

A layer z′ = W φ(z) + b with weights of variance σw²/fan_in and biases of variance σb² maps the variance q of its
pre-activations, the correlation c between two inputs', and the variance of the gradient on its way back. Correlations
go through the Hermite expansion of φ (Mehler's formula): E[φ(z)φ(z′)] = Σₖ aₖ² cᵏ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.maths import gaussian
from gradvitals.maths.activations import Activation

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Terms of the Hermite expansion: what ReLU's leaves out is 0.4 % of its second moment, and is put into one more term.
ORDER = 48
#: Terms that carry less than this share of the second moment are dropped.
_NEGLIGIBLE = 1e-9
#: Rows of a kernel that are summed at once: they stay in the processor's cache.
_BLOCK = 32
#: Standard deviations to integrate over: what lies beyond has probability 1.2·10⁻¹⁵.
_REACH = 8.0
#: Panels per standard deviation and points per panel: the error is below 1e-4 at a kink, 1e-10 elsewhere (tested).
_PANELS, _POINTS = 4, 6
#: Values beyond this, whose fourth power overflows, count as infinite.
_LARGEST = 1e75
#: Steps of a fixed-point iteration, and the change at which it stands still.
_ITERATIONS, _STILL = 20_000, 1e-13
#: Above this variance a fixed point counts as infinite, below its inverse as zero.
_INFINITE = 1e12
#: χ this close to 1 is critical: the depth scale is beyond a thousand million layers.
_CRITICAL = 1e-9


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

    def kernel(self, correlation: Array) -> Array:
        """E[f(zᵢ)f(zⱼ)] for all pairs of rows, from the symmetric (n, n) correlations of z; one row stands for all.

        >>> import numpy as np
        >>> relu = expand(lambda z: np.maximum(z, 0), np.zeros(2), np.ones(2))
        >>> relu.kernel(np.array([[1.0, 0.0], [0.0, 1.0]])).round(4)
        array([[0.5   , 0.1592],
               [0.1592, 0.5   ]])
        """
        c = np.clip(correlation, -1.0, 1.0)
        a = np.ascontiguousarray(self.coefficients.T)
        power, scale = a**2, np.maximum(self.second, 1e-300)
        left_out = np.maximum(self.second - power.sum(axis=0), 0.0)
        own = np.diagonal(c)
        others = np.abs(c)
        np.fill_diagonal(others, 0.0)
        falling = float(others.max(initial=0.0)) ** np.arange(len(a) + 1)
        shares = np.append((power / scale).max(axis=1), (left_out / scale).max()) * falling
        orders = int(
            (shares[::-1].cumsum()[::-1] > _NEGLIGIBLE).sum()
        )  # of the terms, those that matter off the diagonal
        used = np.any(power > _NEGLIGIBLE * scale, axis=1).tolist()
        rest = np.multiply.outer(left_out**0.5, left_out**0.5) if a.shape[1] > 1 else left_out[0]
        total = rest * c * c if orders > len(a) else np.zeros_like(c)
        for start in range(0, len(c), _BLOCK):  # what lies before a block's own rows is known by symmetry
            rows, columns = slice(start, start + _BLOCK), slice(start, None)
            part, factor = np.array(total[rows, columns]), np.array(c[rows, columns])
            term = np.empty_like(part)
            for k in range(min(orders, len(a)) - 1, -1, -1):
                part *= factor
                if used[k]:
                    part += power[k, 0] if a.shape[1] == 1 else np.multiply(a[k, rows, None], a[k, columns], out=term)
            total[rows, columns], total[columns, rows] = part, part.T
        alone = left_out * own**2
        for k in range(len(a) - 1, -1, -1):
            alone = alone * own + power[k]
        np.fill_diagonal(total, alone)
        return total

    def derivative(self, variance: Array, second: Array, fourth: Array) -> Expansion:
        """The expansion of f′, whose own second and fourth moments are known from elsewhere (Stein's lemma)."""
        order = np.arange(1, self.coefficients.shape[1])
        a = self.coefficients[:, 1:] * np.sqrt(order) / np.sqrt(np.maximum(variance, 1e-300))[:, None]
        mean = a[:, 0] if a.shape[1] else np.zeros_like(second)
        carried = np.einsum("nk,nk->n", a, a)
        # Far beyond the kink's resolution the derivative's tail may exceed its second moment by rounding.
        a = a * np.sqrt(np.minimum(1.0, second / np.maximum(carried, np.maximum(second, 1e-300))))[:, None]
        return Expansion(mean, second, fourth, a)


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
    with np.errstate(all="ignore"):  # values that overflow are left out
        return _expanded(f, mean, variance, order)


def _expanded(f: Callable[[Array], Array], mean: Array, variance: Array, order: int) -> Expansion:
    _, weights, polynomials, weighted = _standard_rule()
    values, masses = _values(f, mean, variance)
    squares = values * values
    if masses is None:
        coefficients = values @ weighted[:order].T
        second, fourth = squares @ weights, (squares * squares) @ weights
    else:
        coefficients = (values * masses) @ polynomials[:order].T
        second, fourth = (squares * masses).sum(axis=1), (squares * squares * masses).sum(axis=1)
    small = coefficients**2 <= _NEGLIGIBLE * second[:, None]
    kept = order if not small.all(axis=0).any() else int(np.max(np.nonzero(~small.all(axis=0))[0], initial=-1)) + 1
    return Expansion(coefficients[:, 0].copy(), second, fourth, coefficients[:, : max(kept, 1)])


def even_moments(f: Callable[[Array], Array], mean: Array, variance: Array) -> tuple[Array, Array]:
    """E[f²] and E[f⁴] for z ~ N(mean, variance), row by row: what :func:`expand` has, for less than half its time.

    >>> import numpy as np
    >>> second, fourth = even_moments(lambda z: z, np.zeros(1), np.full(1, 2.0))
    >>> second.round(6), fourth.round(6)
    (array([2.]), array([12.]))
    """
    weights = _standard_rule()[1]
    with np.errstate(all="ignore"):
        values, masses = _values(f, mean, variance)
        squares = values * values
        if masses is None:
            return squares @ weights, (squares * squares) @ weights
        return (squares * masses).sum(axis=1), (squares * squares * masses).sum(axis=1)


def _values(f: Callable[[Array], Array], mean: Array, variance: Array) -> tuple[Array, Array | None]:
    """The function at the points of the rule, and by row the points' weights where values had to be left out."""
    z, weights = _standard_rule()[:2]
    values = np.asarray(f(mean[:, None] + np.sqrt(np.maximum(variance, 0.0))[:, None] * z), dtype=np.float64)
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


# ---- maps of a layer ----


def variance_map(phi: Activation, q: float, *, weight_variance: float, bias_variance: float = 0.0) -> float:
    """The variance of the next pre-activations, V(q) = σw² E[φ(z)²] + σb² for z ~ N(0, q).

    >>> from gradvitals.maths.activations import activation
    >>> round(variance_map(activation("relu"), 3.0, weight_variance=2.0), 12)
    3.0

    References
    ----------
    Poole et al. (2016), eq. 3.

    """
    second = gaussian.second_moment(phi, q) if q > 0 else float(phi.value(np.zeros(1))[0]) ** 2
    return weight_variance * second + bias_variance


def correlation_map(
    phi: Activation, c: float, q: float, *, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """The correlation of two inputs' next pre-activations, both of variance q before and V(q) behind the layer.

    >>> from gradvitals.maths.activations import activation
    >>> round(correlation_map(activation("relu"), 0.0, 1.0, weight_variance=2.0), 3)  # 1/π
    0.318

    References
    ----------
    Poole et al. (2016), eq. 5; Cho and Saul (2009), eq. 6.

    """
    two = expand(phi.value, np.zeros(2), np.full(2, q)).kernel(np.array([[1.0, c], [c, 1.0]]))[0, 1]
    after = variance_map(phi, q, weight_variance=weight_variance, bias_variance=bias_variance)
    return float(weight_variance * two + bias_variance) / after


def gradient_map(phi: Activation, q: float, *, weight_variance: float, c: float = 1.0) -> float:
    """The factor on the gradient's second moment per layer, χ(c) = σw² E[φ′(z)φ′(z′)]; χ(1) is usually called χ.

    >>> from gradvitals.maths.activations import activation
    >>> round(gradient_map(activation("relu"), 1.0, weight_variance=2.0), 12)
    1.0

    References
    ----------
    Schoenholz et al. (2017), eqs. 5 and 9.

    """
    if c == 1:
        slopes = gaussian.expectation(lambda z: phi.slope(z) ** 2, q, kinks=phi.kinks)
    else:
        slopes = float(expand(phi.slope, np.zeros(2), np.full(2, q)).kernel(np.array([[1.0, c], [c, 1.0]]))[0, 1])
    return weight_variance * slopes


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Where a deep stack of one and the same layer ends.

    Parameters
    ----------
    variance : float
        q*, the variance that the layer keeps; 0 or infinity where there is none.
    correlation : float
        c*, to which the correlation of any two inputs tends.
    chi : float
        χ at c = 1: the factor on the gradient's second moment per layer. Above 1 the phase is chaotic (gradients grow,
        nearby inputs part), below 1 ordered (gradients vanish, all inputs look alike).
    chi_correlation : float
        Slope of the correlation map at c*.
    chi_variance : float
        Slope of the variance map at q*.

    """

    variance: float
    correlation: float
    chi: float
    chi_correlation: float
    chi_variance: float

    @property
    def phase(self) -> str:
        """``"ordered"``, ``"critical"`` or ``"chaotic"``."""
        if abs(self.chi - 1) < 1e-6:
            return "critical"
        return "chaotic" if self.chi > 1 else "ordered"


def fixed_point(
    phi: Activation, *, weight_variance: float, bias_variance: float = 0.0, start: float = 1.0
) -> FixedPoint:
    """Iterate the variance map and then the correlation map until both stand still.

    Parameters
    ----------
    phi : Activation
    weight_variance, bias_variance : float
        σw² and σb²: weights have variance σw²/fan_in.
    start : float
        The variance to start from.

    Examples
    --------
    >>> from gradvitals.maths.activations import activation
    >>> point = fixed_point(activation("tanh"), weight_variance=2.25, bias_variance=0.05)
    >>> round(point.variance, 2), point.phase
    (0.89, 'chaotic')

    References
    ----------
    Poole et al. (2016), section 3; Schoenholz et al. (2017), section 3.

    """
    q = start
    for _ in range(_ITERATIONS):
        after = variance_map(phi, q, weight_variance=weight_variance, bias_variance=bias_variance)
        still = abs(after - q) <= _STILL * max(q, 1e-300)
        q = after
        if still or not 1 / _INFINITE < q < _INFINITE:
            break
    if not q < _INFINITE:
        return FixedPoint(math.inf, 1.0, *(math.nan,) * 3)
    if q < 1 / _INFINITE:
        chi = weight_variance * float(phi.slope(np.zeros(1))[0]) ** 2
        return FixedPoint(0.0, 1.0, chi, chi, chi)
    chi = gradient_map(phi, q, weight_variance=weight_variance)
    slope = weight_variance * gaussian.expectation(lambda z: z * phi.value(z) * phi.slope(z), q, kinks=phi.kinks) / q
    c, chi_c = 1.0, chi
    if chi > 1 + _CRITICAL:
        hermite = expand(phi.value, np.zeros(1), np.full(1, q))
        c = _correlation_fixed_point(hermite, q, weight_variance, bias_variance)
        chi_c = gradient_map(phi, q, weight_variance=weight_variance, c=c)
    return FixedPoint(q, c, chi, chi_c, slope)


def _correlation_fixed_point(hermite: Expansion, q: float, weight_variance: float, bias_variance: float) -> float:
    """Of several, the one that inputs without correlation tend to."""
    powers = hermite.coefficients[0] ** 2
    rest = max(float(hermite.second[0]) - float(powers.sum()), 0.0)
    c = 0.0
    for _ in range(_ITERATIONS):
        two = float(np.polyval(powers[::-1], c)) + rest * c ** (len(powers) + 1)
        after = min((weight_variance * two + bias_variance) / q, 1.0)
        if abs(after - c) <= _STILL:
            break
        c = after
    return c


def depth_scale(chi: float) -> float:
    """The number of layers ξ = 1/|ln χ| over which a deviation falls (or grows) by a factor e; infinite at χ = 1.

    >>> round(depth_scale(0.9), 2), depth_scale(1.0)
    (9.49, inf)

    References
    ----------
    Schoenholz et al. (2017), eqs. 8 and 11.

    """
    if not chi > 0:
        return 0.0
    return math.inf if abs(chi - 1) < _CRITICAL else 1 / abs(math.log(chi))
