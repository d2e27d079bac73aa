"""Activations by name, as plain functions of float64 arrays with their derivative and their kinks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation with its derivative, elementwise on float64 arrays of any shape.

    Parameters
    ----------
    name : str
    value : callable
        φ(x).
    slope : callable
        φ′(x); at a kink, either side's.
    kinks : tuple of float
        Where φ or φ′ is not smooth.

    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()


@functools.lru_cache(maxsize=128)
def activation(name: str, **parameters: float) -> Activation:
    """An activation by name: one of :data:`NAMES`.

    Parameters
    ----------
    name : str
    **parameters : float
        ``negative_slope`` of ``leaky_relu`` (0.01), ``alpha`` of ``elu`` and ``celu`` (1), ``beta`` of ``softplus``
        (1), ``low`` and ``high`` of ``hardtanh`` (-1 and 1).

    Raises
    ------
    KeyError
        On a name that isn't known.
    TypeError
        On a parameter that this activation doesn't have.

    Examples
    --------
    >>> activation("leaky_relu", negative_slope=0.2).value(np.array([-1.0, 1.0]))
    array([-0.2,  1. ])

    """
    return _MAKERS[name](**parameters)


def _identity() -> Activation:
    return Activation("identity", lambda x: x, np.ones_like)


def _relu() -> Activation:
    return _leaky_relu(negative_slope=0.0, name="relu")


def _leaky_relu(*, negative_slope: float = 0.01, name: str = "leaky_relu") -> Activation:
    return Activation(
        name,
        lambda x: np.where(x > 0, x, negative_slope * x),
        lambda x: np.where(x > 0, 1.0, negative_slope),
        (0.0,),
    )


def _elu(*, alpha: float = 1.0, scale: float = 1.0, name: str = "elu") -> Activation:
    return Activation(
        name,
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
        (0.0,),
    )


def _celu(*, alpha: float = 1.0) -> Activation:
    return Activation(
        "celu",
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha)),
        lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0.0) / alpha)),
        (0.0,),
    )


def _selu() -> Activation:
    # Klambauer et al. (2017), eq. 14
    return _elu(alpha=1.6732632423543772, scale=1.0507009873554805, name="selu")


def _gelu() -> Activation:
    return Activation(
        "gelu",
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    )


def _gelu_tanh() -> Activation:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715  # Hendrycks and Gimpel (2016), section 2

    def bent(x: Array) -> Array:
        return np.asarray(np.tanh(scale * (x + cubic * x**3)))

    return Activation(
        "gelu_tanh",
        lambda x: 0.5 * x * (1 + bent(x)),
        lambda x: 0.5 * (1 + bent(x)) + 0.5 * x * (1 - bent(x) ** 2) * scale * (1 + 3 * cubic * x**2),
    )


def _silu() -> Activation:
    return Activation(
        "silu",
        lambda x: x * _sigmoid_of(x),
        lambda x: _sigmoid_of(x) * (1 + x * (1 - _sigmoid_of(x))),
    )


def _tanh() -> Activation:
    return Activation("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2)


def _sigmoid() -> Activation:
    return Activation("sigmoid", _sigmoid_of, lambda x: _sigmoid_of(x) * _sigmoid_of(-x))


def _logsigmoid() -> Activation:
    return Activation("logsigmoid", lambda x: -np.logaddexp(0.0, -x), lambda x: _sigmoid_of(-x))


def _softplus(*, beta: float = 1.0) -> Activation:
    return Activation(
        "softplus",
        lambda x: np.logaddexp(0.0, beta * x) / beta,
        lambda x: _sigmoid_of(beta * x),
    )


def _mish() -> Activation:
    def bent(x: Array) -> Array:
        return np.asarray(np.tanh(np.logaddexp(0.0, x)))

    return Activation(
        "mish",
        lambda x: x * bent(x),
        lambda x: bent(x) + x * (1 - bent(x) ** 2) * _sigmoid_of(x),
    )


def _hardtanh(*, low: float = -1.0, high: float = 1.0, name: str = "hardtanh") -> Activation:
    return Activation(
        name,
        lambda x: np.clip(x, low, high),
        lambda x: ((x > low) & (x < high)).astype(np.float64),
        (low, high),
    )


def _relu6() -> Activation:
    return _hardtanh(low=0.0, high=6.0, name="relu6")


def _hardsigmoid() -> Activation:
    return Activation(
        "hardsigmoid",
        lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: (np.abs(x) < 3) / 6.0,
        (-3.0, 3.0),
    )


def _hardswish() -> Activation:
    return Activation(
        "hardswish",
        lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0).astype(np.float64)),
        (-3.0, 3.0),
    )


def _softsign() -> Activation:
    return Activation("softsign", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0, (0.0,))


def _sigmoid_of(x: Array) -> Array:
    """Written with tanh, which doesn't overflow on either side."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _normal_cdf(x: Array) -> Array:
    return np.asarray(0.5 * _erfc(-x / math.sqrt(2)))


#: NumPy has no error function, and SciPy is not a dependency.
_erfc = np.vectorize(math.erfc, otypes=[np.float64])

_MAKERS: Mapping[str, Callable[..., Activation]] = MappingProxyType(
    {
        "identity": _identity,
        "relu": _relu,
        "leaky_relu": _leaky_relu,
        "elu": _elu,
        "celu": _celu,
        "selu": _selu,
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "silu": _silu,
        "tanh": _tanh,
        "sigmoid": _sigmoid,
        "logsigmoid": _logsigmoid,
        "softplus": _softplus,
        "mish": _mish,
        "hardtanh": _hardtanh,
        "relu6": _relu6,
        "hardsigmoid": _hardsigmoid,
        "hardswish": _hardswish,
        "softsign": _softsign,
    }
)

#: The activations that are known by name.
NAMES: tuple[str, ...] = tuple(_MAKERS)
