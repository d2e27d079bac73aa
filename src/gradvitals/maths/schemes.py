"""The variance that each initialisation scheme gives to a weight, from its fan-in and fan-out: no tensors.

All follow from one line: through z = W x with independent zero-mean weights, E[z²] = fan_in · Var(W) · E[x²]. Keeping
the signal forwards asks for Var(W) = g²/fan_in, keeping the gradient backwards for Var(W) = g²/fan_out, where the gain
g makes up for what the activation takes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType


def output_variance(fan_in: int, weight_std: float, input_second_moment: float = 1.0) -> float:
    """Var(z) of one linear layer with independent zero-mean weights: fan_in · σ² · E[x²].

    Parameters
    ----------
    fan_in : int
        Inputs per unit.
    weight_std : float
        Standard deviation σ of the weights.
    input_second_moment : float
        E[x²]; the variance of x where x has zero mean.

    Examples
    --------
    >>> [round(output_variance(100, sigma), 4) for sigma in (0.1, 0.5, 0.01)]
    [1.0, 25.0, 0.01]

    """
    return fan_in * weight_std**2 * input_second_moment


def lecun(fan_in: int, _fan_out: int = 1) -> float:
    """Var(W) = 1/fan_in: keeps the variance forwards through a linear layer.

    >>> lecun(100)
    0.01

    References
    ----------
    LeCun, Bottou, Orr and Müller (1998), section 4.6.

    """
    return 1.0 / fan_in


def xavier(fan_in: int, fan_out: int) -> float:
    """Var(W) = 2/(fan_in + fan_out): the compromise between forwards (1/fan_in) and backwards (1/fan_out).

    >>> round(xavier(100, 50), 5)
    0.01333

    Notes
    -----
    Some course notes print 1/(fan_in + fan_out), half of the paper's value: 0.00667 for this layer.

    References
    ----------
    Glorot and Bengio (2010), eq. 12 and 16.

    """
    return 2.0 / (fan_in + fan_out)


def he(fan_in: int, _fan_out: int = 1, *, negative_slope: float = 0.0) -> float:
    """Var(W) = 2/((1 + a²)·fan_in): makes up for the half that ReLU (a = 0) cuts off.

    >>> he(100)
    0.02
    >>> round(he(100, negative_slope=0.2), 5)
    0.01923

    References
    ----------
    He, Zhang, Ren and Sun (2015), eq. 10 and 15.

    """
    return 2.0 / ((1.0 + negative_slope**2) * fan_in)


def orthogonal(fan_in: int, _fan_out: int = 1) -> float:
    """Mean square 1/fan_in of the entries of an orthogonal matrix that is scaled to keep the RMS per unit.

    >>> orthogonal(64)
    0.015625

    Notes
    -----
    ``torch.nn.init.orthogonal_`` keeps the *norm* instead: 1/max(fan_in, fan_out), which lowers the RMS per unit
    wherever a layer widens.

    References
    ----------
    Saxe, McClelland and Ganguli (2014), section 3.

    """
    return 1.0 / fan_in


def delta_orthogonal(fan_in: int, _fan_out: int = 1) -> float:
    """Mean square 1/fan_in over a whole kernel that holds an orthogonal matrix in its middle and is zero elsewhere.

    >>> delta_orthogonal(16 * 9) == lecun(16 * 9)
    True

    References
    ----------
    Xiao et al. (2018), section 3.2 and algorithm 1.

    """
    return 1.0 / fan_in


def truncated_normal(fan_in: int, _fan_out: int = 1) -> float:
    """LeCun's 1/fan_in, of normal numbers cut off at two standard deviations and scaled to have it after the cut.

    >>> truncated_normal(100)
    0.01

    Notes
    -----
    ``torch.nn.init.trunc_normal_`` takes its bounds in absolute units, and its ``std`` is that before the cut: it gives
    0.88 times what is asked for when the bounds are at two standard deviations.

    """
    return 1.0 / fan_in


#: The schemes by name: (fan_in, fan_out) to the variance of a weight.
SCHEMES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "lecun": lecun,
        "xavier": xavier,
        "he": he,
        "orthogonal": orthogonal,
        "delta_orthogonal": delta_orthogonal,
        "truncated_normal": truncated_normal,
    }
)


def variance(scheme: str, fan_in: int, fan_out: int, *, gain: float = 1.0) -> float:
    """Var(W) by a scheme's name, times the square of a gain.

    Parameters
    ----------
    scheme : str
        ``"lecun"``, ``"xavier"``, ``"he"`` or ``"orthogonal"``.
    fan_in, fan_out : int
        Inputs per unit, and units that an input reaches; both positive.
    gain : float
        A further factor on the standard deviation. He's √2 is part of the scheme.

    Raises
    ------
    KeyError
        On another scheme.
    ValueError
        When a fan is not positive.

    Examples
    --------
    >>> round(variance("xavier", 100, 50), 5), variance("he", 100, 50), variance("lecun", 64, 64, gain=4.0)
    (0.01333, 0.02, 0.25)

    """
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in and fan_out must be positive, got {fan_in} and {fan_out}")
    return gain**2 * SCHEMES[scheme](fan_in, fan_out)


#: Where truncated normal draws end, in their own standard deviations before truncation: what most frameworks use.
TRUNCATION = 2.0


def truncated_deviation(bound: float) -> float:
    """Standard deviation of a standard normal variable that is cut off at ±bound: √(1 − 2b·p(b)/(2P(b) − 1)).

    Dividing by it gives truncated draws the variance that a scheme asks for.

    Parameters
    ----------
    bound : float
        In standard deviations before truncation; positive.

    Raises
    ------
    ValueError
        When the bound isn't positive.

    Examples
    --------
    >>> round(truncated_deviation(2.0), 6)
    0.879626

    References
    ----------
    Johnson, Kotz and Balakrishnan (1994), Continuous Univariate Distributions 1, section 13.10.

    """
    if not bound > 0:
        raise ValueError(f"the bound must be positive, got {bound!r}")
    density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
    inside = math.erf(bound / math.sqrt(2))
    return math.sqrt(1 - 2 * bound * density / inside) if math.isfinite(bound) else 1.0


def uniform_bound(variance: float) -> float:
    """The a for which weights drawn uniformly from [-a, a] have this variance: √(3·Var).

    >>> round(uniform_bound(xavier(100, 50)), 4)
    0.2

    Notes
    -----
    With Xavier's variance this is the √6/√(fan_in + fan_out) of Glorot and Bengio (2010), eq. 16.

    """
    return math.sqrt(3.0 * variance)
