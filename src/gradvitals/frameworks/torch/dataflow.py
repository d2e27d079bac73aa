"""Where a tensor's values come from: which recorded calls, which parameters."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from gradvitals.frameworks.torch.objective import tensors_in


@dataclass(frozen=True, slots=True)
class Origin:
    """The nearest recorded calls by index, the parameters, and whether the case's inputs are among it.

    ``nodes`` are the nearest of calls and residual additions: behind an addition that alone, numbered -1, -2, …
    """

    calls: frozenset[int] = frozenset()
    parameters: frozenset[str] = frozenset()
    inputs: bool = False
    nodes: frozenset[int] = frozenset()

    @property
    def is_signal(self) -> bool:
        """Whether it depends on the case's inputs."""
        return self.inputs or bool(self.calls)

    @property
    def is_weight(self) -> bool:
        """Whether it is made of parameters alone: a weight, also one transposed or normalised."""
        return not self.is_signal and bool(self.parameters)

    def __or__(self, other: Origin) -> Origin:
        return Origin(
            self.calls | other.calls,
            self.parameters | other.parameters,
            self.inputs or other.inputs,
            self.nodes | other.nodes,
        )


NOWHERE = Origin()


class Dataflow:
    """Remembers every tensor's origin while the tensor lives; one that it hasn't seen comes from nowhere."""

    def __init__(self) -> None:
        self._origins: Any = WeakTensorKeyDictionary()

    def of(self, value: Any) -> Origin:
        """The origins of all tensors in a value, together."""
        found = (self._origins.get(tensor, NOWHERE) for _, tensor in tensors_in(value, ""))
        return functools.reduce(Origin.__or__, found, NOWHERE)

    def weights(self, value: Any) -> list[torch.Tensor]:
        """Those tensors in a value that are weights, the one of most dimensions first."""
        found = [tensor for _, tensor in tensors_in(value, "") if self._origins.get(tensor, NOWHERE).is_weight]
        return sorted(found, key=lambda tensor: -tensor.ndim)

    def follow(self, value: Any, origin: Origin) -> None:
        """Note that all tensors in a value come from there."""
        for _, tensor in tensors_in(value, ""):
            self._origins[tensor] = origin
