"""Every evaluation starts from the same state: random generators, running statistics, hidden states."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

#: After the first evaluation everything is looked at, and again after so many: putting NumPy's generator back takes
#: longer than a small function (35 µs against 2 µs for torch.sin), so that only what was seen to move is put back.
_LOOK_EVERY = 16
#: After so many modules alone are looked at.
_LOOKS_AT_MODULES = 2
#: What most attributes of modules are.
_NO_STATES = frozenset({bool, int, float, str, dict, list, OrderedDict})


class Replay:
    """Puts back, before each evaluation, what evaluations were seen to move.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        Their own buffers, and tensors that they hold as plain attributes, are put back.
    generators : sequence of torch.Generator
        Beside the global ones.

    """

    def __init__(self, modules: Sequence[torch.nn.Module], generators: Sequence[torch.Generator] = ()) -> None:
        self._torch = torch.get_rng_state()
        kept: list[_Kept] = [_Numpy(), _Python(), *(_Generator(generator) for generator in generators)]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            kept += [_Generator(generator) for generator in torch.cuda.default_generators]
        kept += [
            _Slot(module._buffers, name, tensor, tensor.detach().clone())  # noqa: SLF001 - assigned anew by forwards
            for module in modules
            for name, tensor in module._buffers.items()  # noqa: SLF001
            if tensor is not None and not torch.nn.parameter.is_lazy(tensor)
        ]
        kept += [_Attributes(vars(module)) for module in modules]
        self._still, self._moving = kept, list[_Kept]()
        self._count = 0

    def rewind(self) -> None:
        """Before an evaluation."""
        torch.set_rng_state(self._torch)
        if self._count == 1 or (self._count and self._count % _LOOK_EVERY == 0):
            self.look()
        elif self._count == _LOOKS_AT_MODULES:  # the first run that is recorded may leave something of its own
            self.look(_Slot, _Attributes)
        self._count += 1
        for item in self._moving:
            item.rewind()

    def look(self, *kinds: type[_Kept]) -> None:
        """Find out what, or what of some kinds, has moved since it was last put back."""
        moved = [item for item in self._still if (not kinds or isinstance(item, kinds)) and item.moved()]
        if moved:
            self._moving += moved
            self._still = [item for item in self._still if item not in moved]

    @property
    def is_still(self) -> bool:
        """Whether nothing was seen to move but torch's own generator."""
        return not self._moving

    def has_drawn(self) -> bool:
        """Whether the evaluation drew random numbers of torch's."""
        generators = (item for item in (*self._still, *self._moving) if isinstance(item, _Generator))
        return not torch.equal(torch.get_rng_state(), self._torch) or any(item.moved() for item in generators)

    def is_moving(self, tensor: torch.Tensor) -> bool:
        """Whether evaluations change a buffer."""
        return any(isinstance(item, _Slot) and item.tensor is tensor for item in self._moving)


class _Kept(Protocol):
    def moved(self) -> bool: ...

    def rewind(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Numpy:
    state: dict[str, Any] = field(default_factory=lambda: dict(np.random.get_state(legacy=False)))  # noqa: NPY002

    def moved(self) -> bool:
        now: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        return not _same_state(now, self.state)

    def rewind(self) -> None:
        np.random.set_state(self.state)  # noqa: NPY002


@dataclass(frozen=True, slots=True, eq=False)
class _Python:
    state: tuple[Any, ...] = field(default_factory=random.getstate)

    def moved(self) -> bool:
        return random.getstate() != self.state

    def rewind(self) -> None:
        random.setstate(self.state)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class _Generator:
    generator: torch.Generator
    state: torch.Tensor

    def __init__(self, generator: torch.Generator) -> None:
        object.__setattr__(self, "generator", generator)
        object.__setattr__(self, "state", generator.get_state())

    def moved(self) -> bool:
        return not torch.equal(self.generator.get_state(), self.state)

    def rewind(self) -> None:
        self.generator.set_state(self.state)


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A buffer, that a forward pass writes into or replaces."""

    holder: MutableMapping[str, torch.Tensor | None]
    name: str
    tensor: torch.Tensor
    values: torch.Tensor

    def moved(self) -> bool:
        return self.holder.get(self.name) is not self.tensor or not torch.equal(self.tensor, self.values)

    def rewind(self) -> None:
        self.holder[self.name] = self.tensor
        self.tensor.data.copy_(self.values)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class _Attributes:
    """Tensors that a module keeps as plain attributes: a hidden state, a cache."""

    holder: MutableMapping[str, Any]
    before: dict[str, Any]
    values: dict[str, Any]

    def __init__(self, holder: MutableMapping[str, Any]) -> None:
        object.__setattr__(self, "holder", holder)
        object.__setattr__(self, "before", _states(holder))
        object.__setattr__(self, "values", {k: _each(v, _copy) for k, v in self.before.items()})

    def moved(self) -> bool:
        before = {k: v for k, v in self.before.items() if v is not None}
        held = {k: v for k, v in _states(self.holder).items() if v is not None}
        if before.keys() != held.keys() or any(held[k] is not before[k] for k in before):
            return True
        return any(not all(_pairwise(before[k], self.values[k], torch.equal)) for k in before)

    def rewind(self) -> None:
        for name, value in _states(self.holder).items():
            if name not in self.before and value is not None:
                del self.holder[name]
        for name, value in self.before.items():
            self.holder[name] = value
            _pairwise(value, self.values[name], lambda tensor, values: tensor.data.copy_(values))


def _states(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Of a module's own attributes the tensors, tuples with tensors, and Nones where one may come."""
    return {k: v for k, v in attributes.items() if type(v) not in _NO_STATES and k[:1] != "_" and _is_state(v)}


def _is_state(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(isinstance(item, torch.Tensor) for item in value)
    return value is None or isinstance(value, torch.Tensor)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _each(value: Any, action: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple([action(item) if isinstance(item, torch.Tensor) else item for item in value])
    return None if value is None else action(value)


def _pairwise(value: Any, values: Any, action: Callable[[torch.Tensor, torch.Tensor], Any]) -> list[Any]:
    if value is None:
        return []
    pairs = zip(value, values, strict=True) if isinstance(value, tuple) else [(value, values)]
    return [action(one, other) for one, other in pairs if isinstance(one, torch.Tensor)]


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same_state(one[key], other[key]) for key in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)
