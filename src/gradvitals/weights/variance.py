"""The variance of a weight by scheme, fans and activation: for NumPy and any other framework, without tensors."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

import numpy as np

from gradvitals.frameworks.elementwise import as_activation
from gradvitals.maths import gaussian, schemes
from gradvitals.vocabulary.errors import UsageError
from gradvitals.weights.arguments import near_name


def variance(scheme: str, fan_in: int, fan_out: int = 1, activation: Any = None) -> float:
    """Var(W) of a scheme, with the gain that the activation behind the layer asks for.

    Parameters
    ----------
    scheme : str
        ``"lecun"``, ``"xavier"``, ``"he"``, ``"orthogonal"``, ``"delta_orthogonal"`` or ``"truncated_normal"``.
    fan_in, fan_out : int
        Weights that sum into one output, and outputs that one input reaches; both positive. Of a convolution both
        count the kernel: channels per group · kernel.
    activation : str or callable, optional
        Its name, a function of an array or tensor, or a module; the gain comes from integration over a normal input of
        variance 1. Without one the scheme is the paper's: He's factor 2 for ReLU, 1 elsewhere.

    Returns
    -------
    float

    Raises
    ------
    UsageError
        On an unknown scheme or activation, one without a gain, or fans that aren't positive numbers.

    Notes
    -----
    With He's scheme and an activation the gain takes the place of the factor 2, which is ReLU's. For orthogonal ones it
    is the mean square of the entries. Of numbers cut off at two standard deviations it is the variance after the cut.

    References
    ----------
    LeCun et al. (1998), section 4.6; Glorot and Bengio (2010), eq. 16; Saxe et al. (2014); He et al. (2015), eq. 10.

    Examples
    --------
    >>> round(variance("xavier", 100, 50), 5), variance("he", 100, 50)
    (0.01333, 0.02)
    >>> round(variance("he", 100, 50, "gelu"), 5), round(variance("lecun", 100, activation="relu"), 5)
    (0.02352, 0.02)
    >>> import numpy as np
    >>> weights = np.random.default_rng(0).normal(0.0, variance("he", 256, 256, np.tanh) ** 0.5, (256, 256))

    """
    if not isinstance(scheme, str) or scheme not in schemes.SCHEMES:
        hint = near_name(scheme, schemes.SCHEMES)
        raise UsageError("no scheme has this name", repr(scheme), f"{hint}Known: {', '.join(schemes.SCHEMES)}")
    if not (_is_count(fan_in) and _is_count(fan_out)):
        raise UsageError(
            "fans are positive numbers",
            f"fan_in={fan_in!r}, fan_out={fan_out!r}",
            "count the weights that sum into one output, and the outputs that one input reaches",
        )
    if activation is None:
        return schemes.variance(scheme, fan_in, fan_out)
    gain = _gain(activation)
    return gain**2 * schemes.variance("lecun" if scheme == "he" else scheme, fan_in, fan_out)


def _is_count(fan: Any) -> bool:
    return isinstance(fan, numbers.Real) and bool(1 <= fan <= sys.float_info.max)  # type: ignore[operator]


def _gain(activation: Any) -> float:
    """The gain that makes up for an activation, where there is one."""
    phi = as_activation(activation)
    with np.errstate(all="ignore"):
        square = gaussian.second_moment(phi, 1.0)
    if not 0 < square < math.inf:
        raise UsageError(
            "this activation has no gain",
            f"{phi.name}: the mean square of its outputs for normal inputs is {square}",
            "give a function whose outputs are finite, and not all zero",
        )
    return gaussian.gain(phi)
