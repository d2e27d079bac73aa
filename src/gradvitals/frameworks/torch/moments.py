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
#: Share of the mean square below which a variance that was got by subtraction has lost half of its digits.
_CANCELLED = 1e-8
#: Magnitudes whose squares float64 holds with room for a sum.
_SAFE_LOW, _SAFE_HIGH = 1e-140, 1e140
#: Samples compared with one another: the mean over their 2016 pairs has settled, and the cost stays that of one pass.
_SAMPLES = 64


def moments(tensor: torch.Tensor, *, underflow: bool = False) -> Moments:
    """Summarise a real tensor of any shape, dtype and device; it may be empty.

    With ``underflow`` it counts what isn't zero but becomes so in float16 and bfloat16.
    """
    with torch.no_grad():
        flat = _flat(tensor)
        finite, low, high = _finite_values(flat)
        masked = int(torch.isneginf(flat).sum()) if finite is not flat else 0
        if finite.numel() == 0:
            none = (math.nan,) * 5
            return Moments(flat.numel(), flat.numel(), masked, *none, zero_share=0.0)
        scale = max(abs(low), abs(high)) or 1.0  # keeps the squares of float64 extremes in range
        mean, square = _two_moments(finite, scale)
        variance = square - mean * mean
        if variance < _CANCELLED * square:
            variance = (
                sum(_squares(chunk.double() / scale - mean) for chunk in torch.split(finite, _CHUNK)) / finite.numel()
            )
        zeros = finite.numel() - int(finite.count_nonzero()) if low <= 0 <= high else 0
        lost_fp16 = _lost(finite, zeros, torch.float16) if underflow else 0
        lost_bf16 = _lost(finite, zeros, torch.bfloat16) if lost_fp16 else 0  # has the wider range
        return Moments(
            count=flat.numel(),
            nonfinite=flat.numel() - finite.numel(),
            masked=masked,
            mean=mean * scale,
            std=math.sqrt(variance) * scale,
            rms=math.sqrt(square) * scale,
            low=low,
            high=high,
            zero_share=zeros / flat.numel(),
            underflow_fp16=lost_fp16 / flat.numel(),
            underflow_bf16=lost_bf16 / flat.numel(),
        )


def _finite_values(flat: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Those values that are finite, the least and the greatest of them; the tensor itself where all are."""
    if flat.numel() == 0:
        return flat, math.nan, math.nan
    low, high = (float(bound) for bound in flat.aminmax())
    if math.isfinite(low) and math.isfinite(high):
        return flat, low, high
    finite = flat[torch.isfinite(flat)]
    if finite.numel():
        low, high = (float(bound) for bound in finite.aminmax())
    return finite, low, high


def _two_moments(finite: torch.Tensor, scale: float) -> tuple[float, float]:
    """Mean and mean square of the values over scale."""
    total = square = 0.0
    for chunk in torch.split(finite, _CHUNK):
        values = chunk.double()
        if scale < _SAFE_LOW or scale > _SAFE_HIGH:
            values = values / scale
        total += float(values.sum())
        square += _squares(values)
    if not (scale < _SAFE_LOW or scale > _SAFE_HIGH):
        total, square = total / scale, square / scale / scale
    return total / finite.numel(), square / finite.numel()


def _squares(values: torch.Tensor) -> float:
    return float(torch.dot(values, values))


def _lost(finite: torch.Tensor, zeros: int, format_: torch.dtype) -> int:
    """How many values that aren't zero become zero in a format."""
    return finite.numel() - zeros - int(finite.to(format_).count_nonzero())


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
    """The two extremes tell, NaN among them, at a twentieth of the price of looking at each value."""
    return not tensor.numel() or all(math.isfinite(float(bound)) for bound in tensor.aminmax())


def is_readable(tensor: torch.Tensor) -> bool:
    """Inside vmap and the like a tensor stands for many, and nested or sparse ones have no plain sum."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
    return tensor.layout == torch.strided and not wrapped


def rms(tensor: torch.Tensor) -> float:
    """The root mean square alone, in the tensor's own arithmetic or float32: for ratios that are read to two digits."""
    with torch.no_grad():
        flat = _flat(tensor)
        flat = flat if flat.dtype in {torch.float32, torch.float64} else flat.float()
        return float(torch.linalg.vector_norm(flat)) / math.sqrt(max(flat.numel(), 1))


def silent_share(silent: torch.Tensor, axis: int) -> float:
    """Share of the units along ``axis`` (negative) that are silent for every sample and position."""
    with torch.no_grad():
        others = [dim for dim in range(silent.ndim) if dim != silent.ndim + axis]
        always = silent.all(dim=others) if others else silent
        return float(always.double().mean())


def sample_spread(output: torch.Tensor) -> float | None:
    """How far two samples' directions lie apart, √(1 − mean cosine); None with fewer than two that are not zero."""
    with torch.no_grad():
        rows = output[:_SAMPLES].flatten(1)
        rows = rows.double() if rows.dtype == torch.float64 else rows.float()
        if not rows.numel():
            return None
        largest = rows.abs().amax(dim=1, keepdim=True)
        count = int(torch.count_nonzero(largest))
        if count < 2 or not _is_finite(largest):
            return None
        if count < len(rows):
            rows, largest = rows[largest[:, 0] > 0], largest[largest > 0].unsqueeze(1)
        directions = rows / largest
        directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        # 1 − cosine by differences from the mean: 1 − (a number near 1) would lose what is looked for
        apart = float((directions - directions.mean(dim=0)).square().sum(dtype=torch.float64))
        return math.sqrt(apart / (count - 1))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    if dense.device.type == "mps":  # has no float64
        dense = dense.cpu()
    return dense.reshape(-1)
