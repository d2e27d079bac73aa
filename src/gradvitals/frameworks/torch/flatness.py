"""Where an activation is flat: the half-lines on which its slope is a small share of its largest."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch

from gradvitals.frameworks.torch.layers import FLAT, ActivationKind
from gradvitals.maths import activations

#: Bounded activations: a value on either flat side is saturated.
_BOUNDED = frozenset({"sigmoid", "tanh", "softsign", "hardsigmoid", "hardtanh"})
#: Activations that are off on their flat lower side as ReLU is: a unit that is there for all samples is dead.
_OFF_BELOW = frozenset({"gelu", "gelu_tanh", "silu", "mish", "elu", "celu", "selu", "softplus", "hardswish"})
#: The slopes are looked at on this grid; beyond it none of these activations changes its mind.
_GRID = np.linspace(-64.0, 64.0, 2**17 + 1)


@functools.lru_cache(maxsize=64)
def flat_sides(name: str, options: tuple[tuple[str, float], ...] = ()) -> tuple[float, float]:
    """The x below which and that above which the slope stays below 2.5 % of its largest; infinite where there is none.

    >>> [round(side, 1) for side in flat_sides("tanh")], [round(side, 1) for side in flat_sides("silu")]
    ([-2.5, 2.5], [-5.0, inf])
    """
    if name not in activations.NAMES:
        return -math.inf, math.inf
    slope = np.abs(activations.activation(name, **dict(options)).slope(_GRID))
    steep = np.flatnonzero(slope >= FLAT * slope.max())
    first, last = int(steep[0]), int(steep[-1])
    low = -math.inf if first == 0 else float(_GRID[first - 1])
    high = math.inf if last == len(_GRID) - 1 else float(_GRID[last + 1])
    return low, high


def saturated_share(kind: ActivationKind, values: torch.Tensor) -> float | None:
    """Share of the inputs where a bounded activation is flat; None for others, but ReLU6 counts at its upper bound."""
    if kind.name not in _BOUNDED and kind.name != "relu6":
        return None
    low, high = _sides(kind.name, kind.options)
    with torch.no_grad():
        flat = int(torch.count_nonzero(values >= high)) if math.isfinite(high) else 0
        if math.isfinite(low) and kind.name != "relu6":
            flat += int(torch.count_nonzero(values <= low))
        return flat / max(values.numel(), 1)


def off(kind: ActivationKind, values: torch.Tensor) -> torch.Tensor | None:
    """Which inputs lie where an activation is off as ReLU is, elementwise; None for others, and where zeros tell."""
    if kind.name not in _OFF_BELOW:
        return None
    low, _ = _sides(kind.name, kind.options)
    return values <= low if math.isfinite(low) else None


def _sides(name: str, options: Mapping[str, float]) -> tuple[float, float]:
    return flat_sides(name, tuple(sorted(options.items())))
