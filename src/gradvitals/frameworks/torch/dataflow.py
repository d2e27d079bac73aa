"""Where a tensor's values come from: which recorded calls, which parameters; and whether they are finite."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from gradvitals.frameworks.torch.moments import Health, health
from gradvitals.frameworks.torch.objective import tensors_in


@dataclass(frozen=True, slots=True)
class Origin:
    """The nearest recorded calls by index, the parameters, and the case's inputs by their numbers.

    ``nodes`` are the nearest of calls and residual additions: behind an addition that alone, numbered -1, -2, …
    """

    calls: frozenset[int] = frozenset()
    parameters: frozenset[str] = frozenset()
    inputs: frozenset[int] = frozenset()
    nodes: frozenset[int] = frozenset()

    @property
    def is_signal(self) -> bool:
        """Whether it depends on the case's inputs."""
        return bool(self.inputs or self.calls)

    @property
    def is_weight(self) -> bool:
        """Whether it is made of parameters alone: a weight, also one transposed or normalised."""
        return not self.is_signal and bool(self.parameters)

    def __or__(self, other: Origin) -> Origin:
        return Origin(
            self.calls | other.calls,
            self.parameters | other.parameters,
            self.inputs | other.inputs,
            self.nodes | other.nodes,
        )


NOWHERE = Origin()


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Every tensor in a value of any nesting; quick where that is the usual tuple of arguments."""
    if isinstance(value, torch.Tensor):
        return [value]
    kind = type(value)
    if kind is tuple or kind is list:
        return [tensor for item in value for tensor in tensors_of(item)]
    if kind is dict:
        return [tensor for item in value.values() for tensor in tensors_of(item)]
    return [] if kind in _PLAIN else [tensor for _, tensor in tensors_in(value, "")]


_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size})


class Dataflow:
    """Remembers every tensor's origin while the tensor lives; one that it hasn't seen comes from nowhere."""

    def __init__(self) -> None:
        self._origins: Any = WeakTensorKeyDictionary()
        self._health: Any = WeakTensorKeyDictionary()

    def of(self, value: Any) -> Origin:
        """The origins of all tensors in a value, together."""
        found = [origin for tensor in tensors_of(value) if (origin := self._origins.get(tensor)) is not None]
        return functools.reduce(Origin.__or__, found) if found else NOWHERE

    def weights(self, value: Any) -> list[torch.Tensor]:
        """Those tensors in a value that are weights, the one of most dimensions first."""
        found = [tensor for tensor in tensors_of(value) if self._origins.get(tensor, NOWHERE).is_weight]
        return sorted(found, key=lambda tensor: -tensor.ndim)

    def follow(self, value: Any, origin: Origin) -> None:
        """Note that all tensors in a value come from there."""
        for tensor in tensors_of(value):
            self._origins[tensor] = origin

    def health(self, value: Any) -> Health:
        """The worst health among the tensors of a value; each is looked at once, and again when it was written to."""
        worst = Health.FINITE
        for tensor in tensors_of(value):
            if tensor.is_floating_point():
                known = self._health.get(tensor)
                if known is None or known[0] != tensor._version:  # noqa: SLF001 - there is no public name for it
                    known = (tensor._version, health(tensor))  # noqa: SLF001
                    self._health[tensor] = known
                worst = max(worst, known[1])
        return worst

    def note_health(self, tensor: torch.Tensor, state: Health) -> None:
        """Remember what is known of a tensor already."""
        self._health[tensor] = (tensor._version, state)  # noqa: SLF001
