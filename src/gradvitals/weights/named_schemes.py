"""Which scheme weights look like, by their variance beside the fans."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gradvitals.frameworks.weights import Weight
from gradvitals.maths import schemes

#: torch.nn.init.calculate_gain("tanh"): what its documentation recommends for Xavier before tanh.
_TANH_GAIN = 5 / 3
#: A variance within this factor of a scheme's is taken for it, besides four standard deviations of its estimate:
#: the schemes below differ by 1.4 and more wherever widths are equal.
_NEAR = 1.1
#: The same for the mean over all layers, which is known better: widths that differ by a tenth tell schemes apart.
NEAR_ON_AVERAGE = 1.03
#: Share of the layers that have to agree, for a head or a stem may have a start of its own.
_SHARE = 0.9


def _orthogonal(weight: Weight) -> float:
    """``torch.nn.init.orthogonal_`` keeps the norm: the longer side of the matrix counts."""
    rows = weight.shape[0]
    return 1.0 / max(rows, math.prod(weight.shape[1:]))


def _by_fans(scheme: str, gain: float = 1.0) -> Callable[[Weight], float]:
    return lambda weight: schemes.variance(scheme, weight.fan_in or 1, weight.fan_out or 1, gain=gain)


#: He's other mode: where widths are equal it needs no mention.
_BACKWARDS = "He (fan-out)"
#: The starts that people choose by name, as (weight) to the variance of its entries. torch's default, U(±1/√fan_in), is
#: none of them: nobody chose it for an activation.
_NAMED: Mapping[str, Callable[[Weight], float]] = MappingProxyType(
    {
        "Xavier": _by_fans("xavier"),
        "LeCun": _by_fans("lecun"),
        "orthogonal": _orthogonal,
        "He": _by_fans("he"),
        _BACKWARDS: lambda weight: 2.0 / (weight.fan_out or 1),
        "Xavier (gain 5/3)": _by_fans("xavier", _TANH_GAIN),
    }
)


def looks_like(weights: Sequence[Weight]) -> str:
    """The names of the schemes that give these layers' variances, those that can't be told apart joined by a stroke.

    Parameters
    ----------
    weights : sequence of Weight

    Returns
    -------
    str
        ``""`` where no scheme does.

    """
    names = [name for name, variance in _NAMED.items() if weights and _fits(weights, variance)]
    return " / ".join(name for name in names if name != _BACKWARDS or "He" not in names)


def _fits(weights: Sequence[Weight], variance: Callable[[Weight], float]) -> bool:
    ratios = [math.log(weight.summary.rms**2 / variance(weight)) for weight in weights]
    # the variance of n normal numbers is known to √(2/n)
    errors = [math.sqrt(2.0 / weight.summary.count) for weight in weights]
    near = [abs(ratio) < math.log(_NEAR) + 4 * error for ratio, error in zip(ratios, errors, strict=True)]
    inside = [ratio for ratio, is_near in zip(ratios, near, strict=True) if is_near]
    if len(inside) < _SHARE * len(ratios):
        return False
    error = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return abs(sum(inside) / len(inside)) < math.log(NEAR_ON_AVERAGE) + 4 * error
