"""Parameters that are spread over processes (FSDP2, DTensor): which part lies here, and how it is written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this process may hold a part only."""
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered from every process where it is spread: all of them have to ask."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        gathered: torch.Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered


def own_part(tensor: torch.Tensor) -> tuple[slice, ...]:
    """Where in the whole tensor the part of this process lies: one slice per dimension."""
    if not is_sharded(tensor):
        return tuple(slice(0, size) for size in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    spread: Any = tensor
    shape, offset = compute_local_shape_and_global_offset(spread.shape, spread.device_mesh, spread.placements)
    return tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))


def own_values(tensor: torch.Tensor) -> torch.Tensor:
    """The part that this process holds, to be written to."""
    local: torch.Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return local


def write(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy a whole tensor's values into a parameter, in place; each process keeps its part."""
    own_values(target).copy_(values[own_part(target)])


@contextlib.contextmanager
def resharded(model: nn.Module) -> Iterator[None]:
    """FSDP gathers parameters for a forward pass and leaves some of them whole: on leaving, none is."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    try:
        yield
    finally:
        for module in model.modules() if fsdp is not None else ():
            if isinstance(module, fsdp.FSDPModule):  # type: ignore[union-attr]
                module.reshard()
