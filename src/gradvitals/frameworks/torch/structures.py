"""Arguments and results of any structure, with other tensors in them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradvitals.frameworks.tree import rebuilt

#: Values that nothing can be changed in, or that are meant to be the very same thing.
_AS_THEY_ARE = (bool, int, float, complex, str, bytes, range, slice, torch.dtype, torch.device, torch.nn.Module)

Change = Callable[[str, torch.Tensor], Any]


def with_tensors(value: Any, name: str, change: Change) -> Any:
    """The same structure, each tensor replaced by ``change(path, tensor)``.

    Tuples, lists, mappings and dataclasses have paths; tensors inside other objects (a cache of keys and values) come
    with an empty one, and such an object is copied.

    Examples
    --------
    >>> with_tensors({"x": (torch.ones(1), 3)}, "kwargs", lambda path, tensor: path)
    {'x': ('kwargs.x[0]', 3)}

    """

    def leaf(path: str, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return change(path, item)
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return _dataclass(item, path, change)
        if item is None or isinstance(item, _AS_THEY_ARE) or callable(item):
            return item
        with _Copying(lambda tensor: change("", tensor)):
            return copy.deepcopy(item)

    if isinstance(value, Mapping) and dataclasses.is_dataclass(value):  # a ModelOutput of transformers
        return leaf(name, value) if not value else _filled(value, name, change)
    return rebuilt(value, name, leaf)


def _filled(value: Any, name: str, change: Change) -> Any:
    """A mapping that is a dataclass as well: built from its items."""
    items = {key: with_tensors(item, f"{name}.{key}", change) for key, item in value.items()}
    return type(value)(**items)


def _dataclass(value: Any, path: str, change: Change) -> Any:
    changed = copy.copy(value)
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            item = with_tensors(getattr(value, field.name), f"{path}.{field.name}", change)
            object.__setattr__(changed, field.name, item)  # it may be frozen
    return changed


class _Copying(TorchFunctionMode):
    """``copy.deepcopy`` of an object asks here what becomes of a tensor; tensors inside a graph refuse it."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._change(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def layout_kept(tensor: torch.Tensor) -> torch.Tensor:
    """A copy outside any graph, of the same strides, also where several entries share one place."""
    tensor = tensor.detach()
    if (
        tensor.layout != torch.strided
        or type(tensor) not in {torch.Tensor, torch.nn.Parameter}
        or tensor.is_contiguous()
    ):
        return tensor.clone()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.numel() == 0 or tensor.is_conj() or tensor.is_neg():
        return tensor.clone()
    places = tensor.as_strided((extent,), (1,), tensor.storage_offset()).clone()
    return places.as_strided(tensor.shape, tensor.stride())
