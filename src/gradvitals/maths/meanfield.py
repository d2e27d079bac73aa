"""Mean-field theory of a wide layer: what an activation makes of variance, correlation and gradient.

A layer z′ = W φ(z) + b with weights of variance σw²/fan_in and biases of variance σb² maps the variance q of its
pre-activations, the correlation c between two inputs', and the variance of the gradient on its way back. Correlations
go through the Hermite expansion of φ (Mehler's formula): E[φ(z)φ(z′)] = Σₖ aₖ² cᵏ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.maths import gaussian
from gradvitals.maths.activations import Activation
from gradvitals.maths.expansion import Expansion, expand

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Steps of a fixed-point iteration, and the change at which it stands still.
_ITERATIONS, _STILL = 20_000, 1e-13
#: Above this variance a fixed point counts as infinite, below its inverse as zero.
_INFINITE = 1e12
#: χ this close to 1 is critical: the depth scale is beyond a thousand million layers.
_CRITICAL = 1e-9


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
