"""Summaries of tensors, in float64: in float32 the squares of gradients below 1e-19 are zero.

NumPy does the arithmetic of tensors in main memory: a call of it costs a fifth of a call of torch, which is what counts
for the small tensors of deep networks.
"""

from __future__ import annotations

import enum
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradvitals.frameworks.capture import Moments
from gradvitals.frameworks.torch.objective import output_tensors
from gradvitals.frameworks.torch.shards import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Values converted to float64 at a time: a quarter of a megabyte stays in the cache.
_CHUNK = 2**15
#: Share of the mean square below which a variance that was got by subtraction has lost half of its digits.
_CANCELLED = 1e-8
#: Magnitudes whose squares float64 holds with room for a sum.
_SAFE_LOW, _SAFE_HIGH = 1e-140, 1e140
#: What is at most this becomes zero in float16 and bfloat16: half of the least subnormal number, 2⁻²⁴ and 2⁻¹³³.
_LOST_FP16, _LOST_BF16 = 2.0**-25, 2.0**-134
#: Samples compared with one another: the mean over their 2016 pairs has settled. Of large ones fewer, so many values in
#: all: the cosine of long vectors scatters less.
_SAMPLES, _FEWEST, _VALUES = 64, 8, 2**18
#: Samples whose positions are compared.
_FEW = 2


def moments(tensor: torch.Tensor, *, underflow: bool = False) -> Moments:
    """Summarise a tensor of any shape, dtype and device; it may be empty. Parts of complex values count by themselves.

    With ``underflow`` it counts what isn't zero but becomes so in float16 and bfloat16.
    """
    values = _values(tensor)
    finite, low, high = _finite_values(values)
    if finite.size == 0:
        none = (math.nan,) * 5
        return Moments(values.size, values.size, int(np.isneginf(values).sum()), *none, zero_share=0.0)
    scale = max(abs(low), abs(high)) or 1.0
    if _SAFE_LOW < scale < _SAFE_HIGH:
        scale = 1.0  # only float64's extremes have squares out of range
    mean, square = _two_moments(finite, scale)
    variance = square - mean * mean
    if variance < _CANCELLED * square:
        variance = _squares_around(finite, scale, mean)
    zeros = finite.size - int(np.count_nonzero(finite != 0)) if low <= 0 <= high else 0
    lost = (0, 0)
    if underflow:
        sizes = np.abs(finite)
        fp16 = int(np.count_nonzero(sizes <= _LOST_FP16)) - zeros
        lost = fp16, int(np.count_nonzero(sizes <= _LOST_BF16)) - zeros if fp16 else 0  # has the wider range
    return Moments(
        count=values.size,
        nonfinite=values.size - finite.size,
        masked=int(np.isneginf(values).sum()) if finite is not values else 0,
        mean=mean * scale,
        std=math.sqrt(variance) * scale,
        rms=math.sqrt(square) * scale,
        low=low,
        high=high,
        zero_share=zeros / values.size,
        underflow_fp16=lost[0] / values.size,
        underflow_bf16=lost[1] / values.size,
    )


def parts(tensor: torch.Tensor) -> torch.Tensor:
    """Real numbers: of complex ones, in one more dimension, the two parts, which optimisers take for two numbers."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _finite_values(values: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
    """Those values that are finite, the least and the greatest of them; the array itself where all are."""
    if values.size == 0:
        return values, math.nan, math.nan
    low, high = float(values.min()), float(values.max())
    if math.isfinite(low) and math.isfinite(high):
        return values, low, high
    finite = values[np.isfinite(values)]
    return finite, *((float(finite.min()), float(finite.max())) if finite.size else (low, high))


def _two_moments(finite: NDArray[Any], scale: float) -> tuple[float, float]:
    """Mean and mean square of the values over scale."""
    total = square = 0.0
    for start in range(0, finite.size, _CHUNK):
        chunk = finite[start : start + _CHUNK].astype(np.float64)
        if scale != 1.0:
            chunk /= scale
        total += float(chunk.sum())
        square += float(chunk @ chunk)
    return total / finite.size, square / finite.size


def _squares_around(finite: NDArray[Any], scale: float, mean: float) -> float:
    """Mean square of the values over scale from their mean."""
    total = 0.0
    for start in range(0, finite.size, _CHUNK):
        chunk = finite[start : start + _CHUNK] / np.float64(scale) - mean
        total += float(chunk @ chunk)
    return total / finite.size


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
    if not tensor.numel():
        return True
    tensor = whole(tensor)
    # NumPy fixes the size of what it looks at, and FSDP frees and refills the memory of its parameters
    if tensor.device.type == "cpu" and tensor.dtype in _NUMPY and "torch.distributed.fsdp" not in sys.modules:
        values = tensor.detach().numpy()
        return math.isfinite(values.min()) and math.isfinite(values.max())
    return all(math.isfinite(float(bound)) for bound in tensor.aminmax())


def is_readable(tensor: torch.Tensor) -> bool:
    """Inside vmap a tensor stands for many, nested or sparse ones have no plain sum, those on meta no values."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
    return tensor.layout == torch.strided and not wrapped and not tensor.is_meta


def rms(tensor: torch.Tensor) -> float:
    """The root mean square alone, in the tensor's own arithmetic or float32: for ratios that are read to two digits."""
    values = _values(tensor)
    return float(np.linalg.norm(values)) / math.sqrt(max(values.size, 1))


def silent_share(silent: torch.Tensor, axis: int) -> float:
    """Share of the units along ``axis`` (negative) that are silent for every sample and position."""
    values = whole(silent).detach().cpu().numpy()
    others = tuple(dim for dim in range(values.ndim) if dim != values.ndim + axis)
    return float(values.all(axis=others).mean())


def sample_spread(output: torch.Tensor) -> float | None:
    """How far two samples' directions lie apart, √(1 − mean cosine); None with fewer than two that are not zero.

    Single numbers have no direction but their sign: of them it is the standard deviation over the root mean square.
    """
    size = output[0].numel() if len(output) else 0
    if not size:
        return None
    count = min(_SAMPLES, max(_FEWEST, _VALUES // size))
    rows = _values(output[:count]).reshape(-1, size).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
    if not _SAFE_LOW**2 < squares.min() <= squares.max() < _SAFE_HIGH**2:  # also where some are zero or not finite
        largest = np.abs(rows).max(axis=1)
        if not np.isfinite(largest).all():
            return None
        rows = rows[largest > 0] / (largest.max() if size == 1 else largest[largest > 0, None])
        squares = np.einsum("ij,ij->i", rows, rows)
    count = len(rows)
    if count < 2:
        return None
    if size == 1:
        return float(rows.std()) / math.sqrt(float(squares.mean()))
    resultant = (1 / np.sqrt(squares)) @ rows
    # 1 − cosine is exact to 1e-16 here, and so the spread to 1e-8: less than what float32 tells apart
    return math.sqrt(max(count * count - float(resultant @ resultant), 0.0) / (count * (count - 1)))


def position_spread(output: torch.Tensor) -> float | None:
    """The same between the positions of a sample, of (samples, positions, features): the widest of a few samples."""
    spreads = [sample_spread(sample) for sample in output[:_FEW]]
    return max((spread for spread in spreads if spread is not None), default=None)


#: Types that NumPy has too.
_NUMPY = frozenset({torch.float32, torch.float64})


def _values(tensor: torch.Tensor) -> NDArray[Any]:
    """The values as a flat array in main memory, in float64 or float32; complex ones by their two parts."""
    dense = whole(tensor).detach()
    dense = dense if dense.layout == torch.strided else dense.to_dense()
    dense = parts(dense)
    if dense.device.type != "cpu":
        dense = dense.cpu()
    values: NDArray[Any] = (dense if dense.dtype in _NUMPY else dense.float()).reshape(-1).numpy()
    return values
