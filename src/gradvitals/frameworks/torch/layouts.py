"""The same numbers lying in memory in other ways."""

from __future__ import annotations

import math

import torch

#: Of cotangents; see :class:`~gradvitals.frameworks.pullback.Pullable`.
LAYOUTS = ("transposed", "sliced", "channels-last", "expanded", "expanded-rows")


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A tensor in another layout; as it is where the layout doesn't fit its shape.

    Differentiable, but for the expanded layouts, which repeat the first entry or row.

    >>> laid_out(torch.zeros(2, 3), "transposed").stride(), laid_out(torch.zeros(2, 3), "expanded").stride()
    ((1, 2), (0, 0))
    """
    if layout == "strided":
        layout = "transposed" if tensor.ndim >= 2 and tensor.shape[0] > 1 and tensor.shape[-1] > 1 else "sliced"
    if tensor.layout != torch.strided or tensor.numel() <= 1:
        return tensor
    if layout == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.stack((_others(tensor), tensor), dim=-1)[..., 1]
    if layout == "channels-last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "expanded":
        return _repeated(tensor.reshape(-1)[:1], tensor.shape, (0,) * tensor.ndim)
    if layout == "expanded-rows" and tensor.ndim >= 2 and tensor.shape[0] > 1:
        return _repeated(tensor[0].reshape(-1), tensor.shape, (0, *tensor[0].contiguous().stride()))
    return tensor


def with_equal_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The first row for all rows, by a view of stride zero: its gradient comes back to that row."""
    return tensor[:1].expand_as(tensor) if tensor.ndim and tensor.shape[0] > 1 else tensor


def _others(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers as large as a tensor's own, all different from those, and none of them zero."""
    own = tensor.detach()
    largest = own.abs().amax()
    return -own - torch.where(own.real < 0, -largest, largest)


def _repeated(row: torch.Tensor, shape: torch.Size, strides: tuple[int, ...]) -> torch.Tensor:
    """A row with strides that repeat it, over memory for all entries that holds something else behind the row."""
    rest = math.prod(shape) - row.numel()
    # A constant may be what a function's gradient is blind for, and round numbers may add up to what is right.
    varied = 1 + 0.75 * torch.cos(2.4 * torch.arange(1, rest + 1, device=row.device))
    behind = _others(row).repeat(math.ceil(rest / row.numel()))[:rest] * varied
    return torch.cat([row, behind.to(row.dtype)]).as_strided(shape, strides)
