"""What the scale of the weights makes of signal and gradient over a chain of layers, by mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import Weight, WeightSummary
from gradvitals.maths import activations
from gradvitals.maths.meanfield import gradient_map, variance_map
from gradvitals.weights.departures import Departure
from gradvitals.weights.neighbours import Neighbours, is_normalisation

_IDENTITY = activations.activation("identity")
#: Beyond this a product is as good as zero or infinite, and squares of it still fit a float.
_LARGEST = 1e120


@dataclass(frozen=True, slots=True)
class Chained:
    """A chain of layers up to one of them, which neither a normalisation nor a sum interrupts.

    Parameters
    ----------
    paths : tuple of str
        Weights of the layers, the first one first.
    first, last : float
        Variance of the first layer's outputs, and of the last one's, for inputs of power 1.
    gradient : float
        Factor on the gradient's second moment from the last layer's outputs to the first one's.

    """

    paths: tuple[str, ...]
    first: float
    last: float
    gradient: float

    @property
    def forward_factor(self) -> float:
        """What becomes of the signal's size."""
        return math.sqrt(self.last / self.first)

    @property
    def backward_factor(self) -> float:
        """What becomes of the gradient's size, per entry and up to the ratio of the widths."""
        return math.sqrt(self.gradient)


def chained(
    calls: Sequence[Call],
    found: Mapping[str, Departure],
    around: Mapping[str, Neighbours],
    summaries: Mapping[str, WeightSummary],
) -> tuple[Chained, ...]:
    """The chain that ends at each layer of those that were looked at, in their order.

    A layer's outputs have variance fan_in·Var(W)·E[φ(z)²] + Var(b) behind an activation φ of inputs z, and its gradient
    is fan_in·Var(W)·E[φ′(z)²] times as large (Poole et al., 2016; Schoenholz et al., 2017).
    """
    states: list[Chained | None] = []
    done: list[Chained] = []
    for call in calls:
        before = states[call.sources[0]] if len(call.sources) == 1 and not is_normalisation(call) else None
        path = next((path for path in call.parameters if path in found), None)
        if path is not None:
            near, weight = around[path], found[path].recipe.weight
            biases = sum(summaries[bias].rms ** 2 for bias in weight.biases)
            before = _extended(before, path, weight, near, biases)
            done.append(before)
        elif call.has_weights:
            before = None
        states.append(before)
    return tuple(done)


def _extended(before: Chained | None, path: str, weight: Weight, near: Neighbours, biases: float) -> Chained:
    """The chain with one more layer."""
    scale = (weight.fan_in or 1) * weight.summary.rms**2
    if before is None:
        return Chained((path,), scale + biases, scale + biases, 1.0)
    phi = near.before or _IDENTITY
    last = variance_map(phi, before.last, weight_variance=scale, bias_variance=biases)
    gradient = before.gradient * gradient_map(phi, before.last, weight_variance=scale)
    return Chained((*before.paths, path), before.first, _bounded(last), _bounded(gradient))


def _bounded(value: float) -> float:
    return min(max(value, 1 / _LARGEST), _LARGEST)
