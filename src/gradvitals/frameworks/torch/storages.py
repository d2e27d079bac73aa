"""Which parameters lie in the same memory: what is written to one of them changes the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from gradvitals.frameworks.torch.shards import own_values


def memory_mates(parameters: Mapping[str, torch.Tensor]) -> dict[str, frozenset[str]]:
    """By path, the other parameters in whose memory some of a parameter's entries lie.

    One whose own entries share memory (it was expanded) is among its own mates. Parts of one buffer that have no entry
    in common, as flattened parameters are, are no mates.

    Examples
    --------
    >>> encoder = torch.zeros(3, 2)
    >>> memory_mates({"encoder": encoder, "decoder": encoder.T, "bias": torch.zeros(3)})
    {'encoder': frozenset({'decoder'}), 'decoder': frozenset({'encoder'})}

    """
    by_storage: dict[int, list[tuple[str, torch.Tensor]]] = defaultdict(list)
    for path, parameter in parameters.items():
        if parameter.is_meta or parameter.layout != torch.strided or torch.nn.parameter.is_lazy(parameter):
            continue
        values = own_values(parameter.detach())
        if values.numel():
            by_storage[values.untyped_storage().data_ptr()].append((path, values))
    mates: dict[str, set[str]] = defaultdict(set)
    for together in by_storage.values():
        for at, (path, values) in enumerate(together):
            if any(step == 0 and size > 1 for size, step in zip(values.shape, values.stride(), strict=True)):
                mates[path].add(path)
            for other, others in together[:at]:
                if _overlap(values, others):
                    mates[path].add(other)
                    mates[other].add(path)
    return {path: frozenset(mates[path]) for path in parameters if path in mates}


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common."""
    if max(first.data_ptr(), second.data_ptr()) >= min(_end(first), _end(second)):
        return False
    if first.element_size() != second.element_size():
        return True
    start = min(first.data_ptr(), second.data_ptr())
    size = first.element_size()
    taken = torch.zeros((max(_end(first), _end(second)) - start) // size, dtype=torch.bool, device="cpu")
    here, there = (
        taken.as_strided(tensor.shape, tensor.stride(), (tensor.data_ptr() - start) // size)
        for tensor in (first, second)
    )
    here.fill_(True)  # noqa: FBT003
    return bool(there.any())


def _end(tensor: torch.Tensor) -> int:
    """The address behind a tensor's last entry."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()
