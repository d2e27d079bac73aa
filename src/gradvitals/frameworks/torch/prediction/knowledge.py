"""What became known of every tensor while a model is traced, and the steps to go back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch.prediction.draws import Drawing
from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.parameter_gradients import Use
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.field import Field


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """An operation without a rule: its name, the layer in which it was called, and why."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overwritten:
    """What is known of a tensor of which a signal was written into a part, or of positions: nothing, and by what."""

    name: str
    path: str
    reason: str = "it writes into a part of a tensor"


@dataclass(slots=True, eq=False)
class Trace:
    """What became known of every tensor, and the steps to go back."""

    steps: list[Step] = field(default_factory=list)
    unmodelled: list[Unmodelled] = field(default_factory=list)
    entries: list[tuple[Constant, Node]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    pending: list[tuple[str, Field | None, int, float]] = field(default_factory=list)
    where: Callable[[], str] = lambda: ""
    layer: Callable[[], nn.Module | None] = lambda: None
    values: dict[int, Any] = field(default_factory=dict)
    drawing: Drawing = field(default_factory=Drawing)
    lent: list[tuple[torch.Tensor, Constant]] = field(default_factory=list)
    views: dict[int, Any] = field(default_factory=dict)
    spectral: dict[int, bool] = field(default_factory=dict)
    seen: dict[Any, str | None] = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)
    _by_memory: dict[int | None, list[torch.Tensor]] = field(default_factory=dict)
    _indexed: int = 0
    _bases: dict[int, tuple[torch.Tensor, Any]] = field(default_factory=dict)

    def value(self, tensor: torch.Tensor) -> Any:
        """What is known of a tensor; a real one that nobody announced is a constant, and so is one without entries."""
        if id(tensor) not in self.values:
            if not is_fake(tensor):
                self.bind(tensor, Constant(tensor, owned=False))
            elif tensor.numel() == 0:  # as a cache of keys starts
                self.bind(tensor, Constant(torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")))
        return self.values.get(id(tensor))

    def bind(self, tensor: torch.Tensor, value: Any) -> None:
        """Say what a tensor holds from now on."""
        self.values[id(tensor)] = value
        self._alive.append(tensor)

    def overwrite(self, written: torch.Tensor, name: str) -> None:
        """A signal was written into a tensor: nothing is known any more of those that hold all of its memory, or the
        same part. Other parts of it (the gates of a cell) stay what they are.
        """
        memory = _memory(written)
        if memory is None:
            return
        for tensor in self._alive[self._indexed :]:
            self._by_memory.setdefault(_memory(tensor), []).append(tensor)
        self._indexed = len(self._alive)
        place = (written.storage_offset(), written.numel())
        for tensor in self._by_memory.get(memory, ()):
            if tensor is written:
                continue
            whole = tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
            if whole or (tensor.storage_offset(), tensor.numel()) == place:
                self.values[id(tensor)] = Overwritten(name, self.where())

    def is_copy(self, weight: Any) -> bool:
        """Whether another parameter that was used before has the same values (``nn.TransformerEncoder`` copies)."""
        if not isinstance(weight, Constant) or not weight.learned or weight.name is None:
            return False
        first = self.seen.setdefault((weight.held.numel(), weight.mean_and_square), weight.name)
        return first != weight.name and weight.mean_and_square[0] ** 2 < weight.mean_and_square[1]

    def entered(self, tensor: torch.Tensor, constant: Constant, field_: Field) -> Node:
        """An input that becomes a signal."""
        node = Node(field_)
        self.bind(tensor, node)
        self.entries.append((constant, node))
        return node


def _memory(tensor: torch.Tensor) -> int | None:
    """What tells one piece of memory from another; None for tensors that have none of their own."""
    try:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - torch has no public name for it
    except (NotImplementedError, RuntimeError):
        return None


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no values."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor) or tensor.is_meta
