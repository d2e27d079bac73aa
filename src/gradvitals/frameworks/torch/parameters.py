"""What a pass showed of the parameters: values, gradients, what a step would do, and which hold the same values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from gradvitals.frameworks.capture import ADAM_EPSILON, ParameterRecord
from gradvitals.frameworks.torch.layers import is_one_per_unit, written
from gradvitals.frameworks.torch.moments import moments, parts
from gradvitals.frameworks.torch.shards import whole

#: Entries of a gradient that are looked at for the size of a step: enough for two digits.
_SAMPLED = 2**14
#: They make their layers by copying one: PyTorch issues 72253 and 86274.
_COPYING = (nn.TransformerEncoder, nn.TransformerDecoder)
#: Columns that tell whether two rows may be the same.
_COMPARED = 8
#: Two gradients of clones are the same where they differ by less than so many roundings of their type.
_ROUNDINGS = 64


def parameter_records(
    model: nn.Module, gradients: Mapping[int, torch.Tensor], scale: float
) -> tuple[ParameterRecord, ...]:
    """Records of all parameters in the model's order; ``scale`` makes of a gradient that of a mean over the batch."""
    records: list[ParameterRecord] = []
    known: dict[tuple[object, ...], list[tuple[str, nn.Parameter]]] = {}
    for name, held in model.named_parameters():
        parameter = whole(held)
        values, gradient = moments(parameter), _whole_gradient(gradients, held)
        twin: tuple[str, nn.Parameter] | None = None
        if held.requires_grad and parameter.ndim > 1 and values.std > 0:
            alike = known.setdefault((parameter.shape, parameter.dtype, values.mean, values.rms), [])
            twin = next(((path, other) for path, other in alike if torch.equal(whole(other), parameter)), None)
            alike.append((written(name), held))
        records.append(
            ParameterRecord(
                path=written(name),
                shape=tuple(parameter.shape),
                trainable=held.requires_grad,
                values=values,
                gradient=None if gradient is None else moments(gradient, underflow=True),
                adam_step=None if gradient is None else _adam_step(gradient, scale),
                same_as=twin[0] if twin else None,
                copied_by=_copied_by(model, name, twin[0]) if twin else None,
                alike_rows=held.requires_grad and _alike_rows(parameter),
                copied_rows=_copied_rows(parameter, gradient) if held.requires_grad else 0,
                same_gradient=twin is not None and _same(gradient, _whole_gradient(gradients, twin[1])),
            )
        )
    return tuple(records)


def _whole_gradient(gradients: Mapping[int, torch.Tensor], parameter: torch.Tensor) -> torch.Tensor | None:
    found = gradients.get(id(parameter))
    return None if found is None else whole(found)


def _copied_by(model: nn.Module, *paths: str) -> str | None:
    """The class of torch's that copies its layers, where all paths lie in one such module."""
    for name, module in model.named_modules():
        if isinstance(module, _COPYING) and all(path.startswith(f"{name}." if name else "") for path in paths):
            return type(module).__name__
    return None


def _alike_rows(parameter: torch.Tensor) -> bool:
    """Whether a matrix has several rows, and all the same, and not of zeros."""
    if is_one_per_unit(parameter) or len(parameter) < 2 or not torch.equal(*parameter[:2]):
        return False
    return bool(parameter[0].any()) and bool((parameter == parameter[:1]).all())


def _copied_rows(parameter: torch.Tensor, gradient: torch.Tensor | None) -> int:
    """How many rows repeat an earlier one in values and in gradient; a few of their columns tell which to compare."""
    one_row = is_one_per_unit(parameter) or len(parameter) < 2 or not parameter.numel()
    if gradient is None or gradient.is_sparse or one_row:
        return 0
    rows = parts(parameter.detach()).flatten(1)
    columns = np.unique(np.linspace(0, rows.shape[1] - 1, _COMPARED).astype(int))
    seen = rows.index_select(1, torch.as_tensor(columns, device=rows.device)).double().cpu().numpy()
    with np.errstate(invalid="ignore"):  # of infinite weights, which equal nothing then
        keys = (seen * np.arange(1.0, len(columns) + 1)).sum(axis=1)  # no product of matrices: equal rows, equal keys
    order = np.argsort(keys, kind="stable")
    one, next_one = keys[order][:-1], keys[order][1:]
    alike = np.nonzero((one == next_one) & (one != 0))[0]
    pairs = ((int(order[at]), int(order[at + 1])) for at in alike)
    return sum(torch.equal(rows[a], rows[b]) and _same(gradient[a], gradient[b]) for a, b in pairs)


def _adam_step(gradient: torch.Tensor, scale: float) -> float:
    """RMS of |g|/(|g| + ε), Adam's first step in units of the learning rate."""
    values = gradient.detach()
    held = parts(values.coalesce().values() if values.is_sparse else values)
    if not held.numel():
        return 0.0
    flat = held.reshape(-1)[:: max(1, held.numel() // _SAMPLED)]
    sizes = np.abs(flat.cpu().double().numpy()) * scale
    with np.errstate(invalid="ignore"):  # of an infinite gradient
        steps = sizes / (sizes + ADAM_EPSILON)
    share = held.numel() / values.numel() if values.is_sparse else 1.0  # the rest stays where it is
    return math.sqrt(float(steps @ steps) / len(steps) * share)


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """Whether two gradients agree to rounding, and aren't both zero."""
    if first is None or second is None or first.is_sparse or second.is_sparse:
        return False
    wide = torch.promote_types(first.dtype, torch.float64)
    size = float(torch.linalg.vector_norm(first.to(wide)))
    apart = float(torch.linalg.vector_norm(first.to(wide) - second.to(wide)))
    return 0 < size < math.inf and apart <= _ROUNDINGS * torch.finfo(first.dtype).eps * size
