"""Other tensors in the places of a module's parameters and buffers, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

_Place = tuple[dict[str, Any], str]


class Places:
    """Where modules keep their parameters and buffers; a tied one has several places.

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
        seen = {id(module): module for root in modules for module in root.modules()}
        for module in seen.values():
            for holder in (module._parameters, module._buffers):  # noqa: SLF001 - functional_call looks all up each time
                for name, tensor in holder.items():
                    if tensor is not None:
                        self.tensors[id(tensor)] = tensor
                        self._places.setdefault(id(tensor), []).append((holder, name))

    @contextlib.contextmanager
    def swapped(self, replacements: Mapping[int, torch.Tensor]) -> Iterator[None]:
        """Put tensors in the places of others, which are named by their ids; all come back at the end."""
        taken = [(place, self.tensors[at]) for at in replacements for place in self._places.get(at, ())]
        try:
            for at, tensor in replacements.items():
                for holder, name in self._places.get(at, ()):
                    holder[name] = tensor
            yield
        finally:
            for (holder, name), tensor in taken:
                holder[name] = tensor
