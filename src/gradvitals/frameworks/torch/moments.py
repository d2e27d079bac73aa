"""Summaries of tensors, in float64: in float32 the squares of gradients below 1e-19 are zero."""

from __future__ import annotations

import enum
import math
from typing import Any

import torch

from gradvitals.frameworks.capture import Moments
from gradvitals.frameworks.torch.objective import output_tensors

#: Values converted to float64 at a time: 1 MB stays in the cache, and a large activation is not doubled in memory.
_CHUNK = 2**17
#: Samples compared with one another: the mean over their 2016 pairs has settled, and the cost stays that of one pass.
_SAMPLES = 64


def moments(tensor: torch.Tensor) -> Moments:
    """Summarise a real tensor of any shape, dtype and device; it may be empty."""
    with torch.no_grad():
        flat = _flat(tensor)
        finite = flat if _is_finite(flat) else flat[torch.isfinite(flat)]
        masked = int(torch.isneginf(flat).sum()) if finite is not flat else 0
        if finite.numel() == 0:
            none = (math.nan,) * 5
            return Moments(flat.numel(), flat.numel(), masked, *none, zero_share=0.0)
        chunks = torch.split(finite, _CHUNK)
        low, high = (float(bound) for bound in finite.aminmax())
        scale = max(abs(low), abs(high)) or 1.0  # keeps the squares of float64 extremes in range
        mean = sum(float((chunk.double() / scale).sum()) for chunk in chunks) / finite.numel()
        variance = sum(float((chunk.double() / scale - mean).square().sum()) for chunk in chunks) / finite.numel()
        return Moments(
            count=flat.numel(),
            nonfinite=flat.numel() - finite.numel(),
            masked=masked,
            mean=mean * scale,
            std=math.sqrt(variance) * scale,
            rms=math.sqrt(variance + mean * mean) * scale,
            low=low,
            high=high,
            zero_share=(finite.numel() - int(finite.count_nonzero())) / flat.numel(),
        )


class Health(enum.IntEnum):
    """How far values are from finite; −∞ alone is what masks add before a softmax."""

    FINITE = 0
    MASKED = 1
    BROKEN = 2


def health(value: Any) -> Health:
    """The worst among the floating-point tensors of a value, in any nesting."""
    return max((_health(tensor) for _, tensor in output_tensors(value) if is_readable(tensor)), default=Health.FINITE)


def _health(tensor: torch.Tensor) -> Health:
    with torch.no_grad():
        if _is_finite(tensor):
            return Health.FINITE
        return Health.BROKEN if bool((torch.isnan(tensor) | torch.isposinf(tensor)).any()) else Health.MASKED


def _is_finite(tensor: torch.Tensor) -> bool:
    """The sum tells in most cases, at a tenth of the price of looking at each value."""
    return math.isfinite(float(tensor.sum(dtype=torch.float64))) or bool(torch.isfinite(tensor).all())


def is_readable(tensor: torch.Tensor) -> bool:
    """Inside vmap and the like a tensor stands for many, and nested or sparse ones have no plain sum."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
    return tensor.layout == torch.strided and not wrapped


def dead_share(output: torch.Tensor, axis: int) -> float:
    """Share of the units along ``axis`` (negative) that are zero for every sample and position."""
    with torch.no_grad():
        others = [dim for dim in range(output.ndim) if dim != output.ndim + axis]
        active = (output != 0).any(dim=others) if others else output != 0
        return 1 - float(active.double().mean())


def sample_cosine(output: torch.Tensor) -> float | None:
    """Mean cosine between two samples' flattened outputs; None with fewer than two that are not zero."""
    with torch.no_grad():
        rows = output[:_SAMPLES].flatten(1)
        rows = rows.double() if rows.dtype == torch.float64 else rows.float()
        largest = rows.abs().amax(dim=1, keepdim=True)
        rows = rows[(largest > 0).squeeze(1)] / largest[largest > 0].unsqueeze(1)
        count = len(rows)
        if count < 2 or not _is_finite(rows):
            return None
        directions = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        resultant = float(torch.linalg.vector_norm(directions.sum(dim=0), dtype=torch.float64)) ** 2
        return min(1.0, (resultant - count) / (count * (count - 1)))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    if dense.device.type == "mps":  # has no float64
        dense = dense.cpu()
    return dense.reshape(-1)
