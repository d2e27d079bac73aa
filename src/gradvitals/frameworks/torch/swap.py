"""Other tensors in the places of a module's parameters and buffers, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradvitals.vocabulary.errors import InputError

_Place = tuple[dict[str, Any], str]


class Places:
    """Where modules themselves keep parameters and buffers; a tied one has several places.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 2)
    >>> bias = layer.bias
    >>> with torch.no_grad(), Places([layer]).swapped({id(bias): torch.full((2,), 7.0)}):
    ...     layer(torch.zeros(2))
    tensor([7., 7.])
    >>> layer.bias is bias
    True

    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        #: Every parameter and buffer, by its id.
        self.tensors: dict[int, torch.Tensor] = {}
        self._places: dict[int, list[_Place]] = {}
        for module in modules:
            for holder in (module._parameters, module._buffers):  # noqa: SLF001 - functional_call looks all up each time
                for name, tensor in holder.items():
                    if tensor is not None:
                        self.tensors[id(tensor)] = tensor
                        self._places.setdefault(id(tensor), []).append((holder, name))

    @contextlib.contextmanager
    def swapped(self, replacements: Mapping[int, torch.Tensor]) -> Iterator[None]:
        """Put tensors in the places of others, which are named by their ids; all come back at the end."""
        if any(at not in self._places for at in replacements):
            raise InputError(
                "a parameter can't be replaced",
                "it belongs to no module that is known to the check",
                "pass the module that holds it, or name it in wrt=",
            )
        taken = [(place, self.tensors[at]) for at in replacements for place in self._places[at]]
        try:
            for at, tensor in replacements.items():
                for holder, name in self._places[at]:
                    holder[name] = tensor
            yield
        finally:
            for (holder, name), tensor in taken:
                holder[name] = tensor

    @contextlib.contextmanager
    def only_replaced(self, replaced: Collection[int]) -> Iterator[None]:
        """Raise where code computes with a tensor that was replaced: it keeps it somewhere else as well."""
        if not replaced:
            yield
            return
        with _Watch({at for at in replaced if at in self._places}):
            yield


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, replaced: AbstractSet[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._replaced = replaced

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if any(id(item) in self._replaced for item in (*args, *(kwargs or {}).values())):
            raise InputError(
                "a parameter is used from another place than its module",
                f"by {function}, while another tensor stands in its place",
                "let the code ask the module for it: a list of parameters doesn't follow when they are replaced",
            )
        return function(*args, **(kwargs or {}))


def written_in_place(parameters: Sequence[torch.Tensor]) -> set[int]:
    """Ids of the parameters that can be moved in place without another one moving along.

    >>> table = torch.zeros(4, 2)
    >>> alone, first, both = torch.zeros(2), table[:2], table
    >>> written_in_place([alone, first, both]) == {id(alone)}
    True
    """
    dense = [p for p in parameters if p.layout == torch.strided and p.numel() == _reach(p)]
    spans = sorted((p.data_ptr(), p.numel() * p.element_size(), id(p)) for p in dense)
    apart = {id(p) for p in dense}
    end = last = 0
    for start, size, parameter in spans:
        if start < end:
            apart -= {last, parameter}
        if start + size >= end:
            end, last = start + size, parameter
    return apart


def _reach(tensor: torch.Tensor) -> int:
    """Entries between the first and the last one in memory, both counted."""
    if tensor.is_contiguous():
        return tensor.numel()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((int(size) - 1) * int(stride) for size, stride in sizes) if tensor.numel() else 0
