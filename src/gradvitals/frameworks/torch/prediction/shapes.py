"""The shapes of what operations return, remembered: asking PyTorch takes a millisecond, and layers repeat.

An operation's output has its shape, strides and type by those of what goes in, and by its numbers. So one that was
asked of tensors alike before is answered without running it. What writes into its arguments, or has a shape that
depends on values, is always run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gradvitals.frameworks.torch.prediction.host import is_here

#: Answers that are kept, over all models: a large one has a few hundred different ones.
_KEPT = 20_000
#: Tensors that are no more than their values; others are asked what they are.
_ORDINARY = (torch.Tensor, torch.nn.Parameter)
#: Operations whose outputs' shapes depend on values.
_BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@dataclass(frozen=True, slots=True)
class _Made:
    """What is known of one output; ``behind`` is the tensor argument whose memory it shares, if any."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    behind: int | None


_ANSWERS: dict[Any, tuple[type, tuple[_Made, ...]]] = {}
_REPEATABLE: dict[Any, bool] = {}


class Shapes:
    """Runs operations on tensors without values; ``fake`` is the mode that makes them, None on the meta device."""

    def __init__(self, fake: FakeTensorMode | None) -> None:
        self._fake = fake
        self._stand_ins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The operation's output."""
        given: list[torch.Tensor] = []
        if self._fake is None:
            key = _key((args, kwargs), given)
        else:
            args, kwargs = _each((args, dict(kwargs)), self._without_values)
            key = _key((args, kwargs), given)
        if key is None or not _is_repeatable(func):
            return self._asked(func, args, kwargs)
        key = (func, self._fake is None, torch.get_default_dtype(), key)
        known = _ANSWERS.get(key)
        if known is not None:
            return self._again(known, given)
        output = self._asked(func, args, kwargs)
        answer = _answer(output, given)
        made_here = answer is not None and (
            self._fake is not None or all(one.device.type == "meta" for one in answer[1])
        )
        if answer is not None and made_here:
            if len(_ANSWERS) >= _KEPT:
                _ANSWERS.clear()
            _ANSWERS[key] = answer
        return output

    def _asked(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """PyTorch's own answer; what makes a tensor of none has to be told that it is to have no values."""
        with self._fake if self._fake is not None else contextlib.nullcontext():
            return func(*args, **kwargs)

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without values on the CPU, in place of one with values on any device."""
        if is_here(tensor) or self._fake is None:
            return tensor if self._fake is None else self._fake.from_tensor(tensor)
        return self._empty_like(tensor).requires_grad_(tensor.requires_grad)

    def _empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():  # noqa: SLF001 - as below
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(self._fake, empty, torch.device("cpu"))

    def _without_values(self, tensor: torch.Tensor) -> torch.Tensor:
        """A stand-in for a parameter or another real tensor: only its shape counts, so that it shares no memory."""
        if isinstance(tensor, FakeTensor) or self._fake is None:
            return tensor
        if not is_here(tensor):
            return self._empty_like(tensor)
        if type(tensor) not in _ORDINARY or tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return self._fake.from_tensor(tensor)
        known = self._stand_ins.get(id(tensor))
        if known is None:
            known = self._stand_ins[id(tensor)] = tensor, self._empty_like(tensor)
        return known[1]

    def _again(self, known: tuple[type, tuple[_Made, ...]], given: list[torch.Tensor]) -> Any:
        kind, made = known
        tensors = [self._tensor(one, given) for one in made]
        return tensors[0] if kind is torch.Tensor else kind(tensors)

    def _tensor(self, made: _Made, given: list[torch.Tensor]) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():  # noqa: SLF001 - no mode is to see what only makes room
            if made.behind is None:
                empty = torch.empty_strided(made.size, made.stride, dtype=made.dtype, device="meta")
            else:
                empty = torch.empty(0, dtype=made.dtype, device="meta")
                empty.set_(given[made.behind].untyped_storage(), made.offset, made.size, made.stride)
        return empty if self._fake is None else FakeTensor(self._fake, empty, made.device)


def _is_repeatable(func: Any) -> bool:
    """Whether an operation's output is told by what its arguments look like, and leaves them as they are."""
    known = _REPEATABLE.get(func)
    if known is None:
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)  # noqa: SLF001
        known = _REPEATABLE[func] = not writes and not any(tag in func.tags for tag in _BY_VALUE)
    return known


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with every tensor in tuples, lists and dictionaries changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_each(item, change) for item in value])
    if isinstance(value, dict):
        return {name: _each(item, change) for name, item in value.items()}
    return value


def _key(value: Any, given: list[torch.Tensor]) -> Any:
    """What tells an argument from others as far as shapes go, None where that isn't known; collects its tensors."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_conj() or value.is_neg():
            return None
        given.append(value)
        device = value.fake_device if isinstance(value, FakeTensor) else value.device
        return tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, device
    if isinstance(value, (tuple, list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        keys = tuple((name, _key(item, given)) for name, item in items)
        return None if any(key is None for _, key in keys) else keys
    if value is None or isinstance(value, _PLAIN):
        return type(value), value
    return None


#: Arguments that are compared by their values.
_PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _answer(output: Any, given: list[torch.Tensor]) -> tuple[type, tuple[_Made, ...]] | None:
    """What to answer the next time; None where an output is no tensor with memory of its own or a given one's."""
    kind = torch.Tensor if isinstance(output, torch.Tensor) else type(output)
    outputs = [output] if kind is torch.Tensor else output
    if kind not in {torch.Tensor, tuple, list}:
        return None
    made = []
    for tensor in outputs:
        if not isinstance(tensor, torch.Tensor) or any(tensor is one for one in given):
            return None
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return None
        memory = tensor.untyped_storage()._cdata  # noqa: SLF001 - as in trace.py
        behind = next((at for at, one in enumerate(given) if one.untyped_storage()._cdata == memory), None)  # noqa: SLF001
        place = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype
        made.append(_Made(*place, tensor.device, behind))
    return kind, tuple(made)
