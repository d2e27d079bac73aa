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
            by_storage[_memory_of(values)].append((path, values))
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


def _memory_of(tensor: torch.Tensor) -> int:
    storage = tensor.untyped_storage()
    try:
        return storage.data_ptr()
    except RuntimeError:  # a device that shows no addresses
        return int(storage._cdata)  # noqa: SLF001


def _overlap(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common."""
    begins = [tensor.storage_offset() * tensor.element_size() for tensor in (first, second)]
    ends = [begin + _length(tensor) for begin, tensor in zip(begins, (first, second), strict=True)]
    if max(begins) >= min(ends):
        return False
    if first.element_size() != second.element_size():
        return True
    start, size = min(begins), first.element_size()
    taken = torch.zeros((max(ends) - start) // size, dtype=torch.bool, device="cpu")
    here, there = (
        taken.as_strided(tensor.shape, tensor.stride(), (begin - start) // size)
        for begin, tensor in zip(begins, (first, second), strict=True)
    )
    here.fill_(True)  # noqa: FBT003
    return bool(there.any())


def _length(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first entry to the end of its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
