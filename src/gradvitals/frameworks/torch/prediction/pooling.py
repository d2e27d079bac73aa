"""Pooling: averages and maxima over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.convolution import _as_spatial, _each, _settled, spatially
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.transformed import in_numpy, slope_of
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.frameworks.torch.prediction.windows import Windows, adaptive, sliding
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role
from gradvitals.maths.scatter import new_cause

#: Points of the integral over what the values of a window have in common.
_NODES = 9


@rule(
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
)
def _average(operation: Operation) -> None:
    node = operation.node(operation.args[0])
    lead = operation.args[0].dim() - _spatial(operation.name)
    windows = _windows(operation, lead)
    before = spatially(node.field)
    divisor = windows.counts() if "adaptive" in operation.name or not _counts_padding(operation) else windows.taps
    made = _settled(_averaged(before, windows, divisor))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = _as_spatial(gathered_to(gradient, made.layout), before)
        size = float(np.mean(divisor))
        scaled = g.times(1 / size)
        axes = [g.array_axis(d, 0) for d in range(2, len(g.layout))]
        if g.has_pixels:
            second = windows.reversed().summed_map(scaled.second, [m for m, _ in axes])
            outputs, inputs = math.prod(windows.outputs), math.prod(windows.inputs)
            # Inputs behind one output share its gradient; those behind different ones are as correlated as these.
            together = windows.taps * scaled.place_second() + max(outputs - windows.taps, 0) * _own(scaled)
            kernel = scaled.kernel * (windows.taps * outputs / inputs) ** 2
            if outputs == 1:
                kernel = scaled.kernel
                n = math.prod(kernel.shape[: scaled.places])
                flat = np.array(kernel).reshape(n, n)
                np.fill_diagonal(flat, scaled.place_second().reshape(-1))
                kernel = flat.reshape(kernel.shape)
            del together
        else:
            kernel = windows.mixed_kernel(scaled.kernel, [p for _, p in axes], g.places, back=True)
            n = math.prod(kernel.shape[: g.places])
            second = np.diagonal(kernel.reshape(n, n)).reshape(kernel.shape[: g.places])
        role = Role.PIXEL if g.has_pixels else Role.PLACE
        layout = (*g.layout[:2], *((Axis(n, role),) for n in windows.inputs))
        back = replace(g, layout=layout, second=second, mean=np.zeros_like(second), kernel=kernel)
        return [gathered_to(gathered_to(back, before.layout), node.field.layout)]

    operation.emit(replace(made, inherited=node.field.scatter, cause=new_cause()), [node], pullback)


def _own(field: Field) -> Any:
    n = math.prod(field.kernel.shape[: field.places])
    return np.diagonal(field.kernel.reshape(n, n)).reshape(field.kernel.shape[: field.places])


def _averaged(field: Field, windows: Windows, divisor: Any) -> Field:
    axes = [field.array_axis(d, 0) for d in range(2, len(field.layout))]
    rank = len(field.layout)
    role = Role.PIXEL if field.has_pixels else Role.PLACE
    mean = windows.summed_map(field.mean, [m for m, _ in axes]) / divisor
    if field.has_pixels:
        n = windows.counts()
        own = _own(field)
        spread = own.reshape([*own.shape, *[1] * (rank - 2)]) if field.layout[0] else own
        second = windows.summed_map(field.second, [m for m, _ in axes]) / divisor**2
        second = second + n * (n - 1) / divisor**2 * spread
        kernel = field.kernel * float(np.mean(n / divisor)) ** 2
    else:
        kernel = windows.mixed_kernel(field.kernel, [p for _, p in axes], field.places)
        scale = np.broadcast_to(1 / np.asarray(divisor, dtype=float), windows.outputs)
        lead = field.places - len(axes)
        by_place = scale.reshape([*[1] * lead, *windows.outputs])
        kernel = kernel * by_place.reshape([*by_place.shape, *[1] * field.places]) * by_place
        count = math.prod(kernel.shape[: field.places])
        second = np.diagonal(kernel.reshape(count, count)).reshape(kernel.shape[: field.places])
    layout = (*field.layout[:2], *((Axis(n, role),) for n in windows.outputs))
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel, kurtosis=3.0)


def _spatial(name: str) -> int:
    return int(name.split("_with", maxsplit=1)[0].rstrip("_")[-2])


def _counts_padding(operation: Operation) -> bool:
    return bool(operation.argument(5, "count_include_pad", True)) and operation.argument(6, "divisor_override") is None  # noqa: FBT003


def _windows(operation: Operation, lead: int) -> Windows:
    shape, out = tuple(operation.args[0].shape)[lead:], tuple(operation.first.shape)[lead:]
    if "adaptive" in operation.name:
        return adaptive(shape, out)
    n = len(shape)
    kernel = _each(operation.args[1], n)
    stride = operation.argument(2, "stride") or kernel
    padding = operation.argument(3, "padding", 0)
    dilation = operation.argument(4, "dilation", 1) if "max" in operation.name else 1
    return sliding(shape, kernel, _each(stride, n), _each(padding, n), _each(dilation, n), out)


@rule(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "max_pool1d_with_indices",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "mkldnn_max_pool2d",
)
def _maximum(operation: Operation) -> None:
    """The largest of a window; of an increasing function of a signal, the function of the largest."""
    node = operation.node(operation.args[0])
    windows = _windows(operation, operation.args[0].dim() - _spatial(operation.name))
    increasing = node.source is not None and increases(node)
    origin = node.root if increasing else node
    function = node.root_function if increasing else (lambda z: z)
    before = spatially(origin.field)
    seen = round(float(np.mean(windows.counts())))
    common = shared_variance(before)
    top = largest(before, seen, common, function)
    shape_axes = [before.array_axis(d, 0)[0] for d in range(2, len(before.layout))]
    extents = list(before.second.shape)
    for axis, n in zip(shape_axes, windows.outputs, strict=True):
        extents[axis] = n
    role = Role.PIXEL if before.has_pixels else Role.PLACE
    layout = (*before.layout[:2], *((Axis(n, role),) for n in windows.outputs))
    places = [n for n, axis in zip(extents, before.mapped, strict=True) if axis.role is Role.PLACE]
    made = Field(
        layout,
        np.full(extents, top.mean),
        np.full(extents, top.second),
        np.full([*places, *places], top.mean**2),
        before.scatter,
        2.0,
        blur=before.blur,
        shared_blur=before.shared_blur,
    )
    if not before.has_pixels or before.places:
        made = replace(made, kernel=_between(before, made, top, common))
    made = _settled(made.consistent())
    share = math.prod(windows.outputs) / math.prod(windows.inputs)
    twice = _shared_maxima(windows)

    def back(gradient: Field, factor: float) -> Field:
        g = _as_spatial(gathered_to(gradient, made.layout), before)
        axes = [g.array_axis(d, 0) for d in range(2, len(g.layout))]
        spread = windows.reversed().summed_map(g.second, [m for m, _ in axes]) * factor / seen
        shared = float(_own(g).mean()) if g.has_pixels else g.pair_means()[1]
        spread = spread + max(shared, 0.0) * factor * share * twice
        if g.has_pixels:
            kernel = g.kernel * factor * share**2
        else:
            kernel = windows.reversed().mixed_kernel(g.kernel, [p for _, p in axes], g.places, back=False)
            kernel = kernel * factor / seen**2
        role = Role.PIXEL if g.has_pixels else Role.PLACE
        layout = (*g.layout[:2], *((Axis(n, role),) for n in windows.inputs))
        return replace(
            g,
            layout=layout,
            second=spread,
            mean=np.zeros_like(spread),
            kernel=kernel,
            inherited=gradient.inherited,
            kurtosis=min(gradient.kurtosis * seen, 1e3),
        ).consistent()

    def to_origin(gradient: Field) -> Sequence[Field]:
        slope = largest(before, seen, common, function, slope=True).slope
        return [gathered_to(gathered_to(back(gradient, slope), before.layout), origin.field.layout)]

    operation.emit(made, [origin], to_origin)
    if origin is not node:
        made_node = operation.trace.value(operation.first)
        step = Step(
            made_node,
            (node,),
            lambda g: [gathered_to(gathered_to(back(g, 1.0), before.layout), node.field.layout)],
            shown=True,
        )
        operation.trace.steps.append(step)


def _between(before: Field, made: Field, top: Largest, common: float) -> Any:
    """What two maxima share is what the values under them share."""
    mean = float(before.mean.mean()) ** 2
    share = (before.kernel if before.has_pixels else np.full_like(made.kernel, before.pair_means()[1])) - mean
    return top.mean**2 + np.clip(share / max(common, 1e-300), 0.0, 1.0) * top.shared


def increases(node: Node) -> bool:
    """Whether the function of a signal never falls."""
    field = node.root.field
    scale = 6 * math.sqrt(max(field.mean_square, 1e-300))
    grid = torch.linspace(-scale, scale, 257, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        values = node.root_function(grid)
    return bool((values.diff() >= -1e-12 * scale).all())


def _shared_maxima(windows: Windows) -> float:
    """How many other windows have the same entry as their largest: of two, where the largest of both lies in both."""
    reach: list[list[tuple[int, int]]] = []
    for table in windows.tables:
        taps, outputs = table.shape
        middle = table[taps // 2]
        step = int(middle[outputs // 2] - middle[outputs // 2 - 1]) if outputs > 1 else taps
        reach.append([(n, taps - abs(n) * step) for n in range(1 - taps, taps) if abs(n) * max(step, 1) < taps])
    found = 0.0
    for offsets in itertools.product(*reach):
        both = math.prod(overlap for _, overlap in offsets)
        if any(n for n, _ in offsets):
            found += both / (2 * windows.taps - both)
    return found


@dataclass(frozen=True, slots=True)
class Largest:
    """Moments of a function of the largest of n values: E[f], E[f²], the variance of E[f] given what they share."""

    mean: float
    second: float
    shared: float
    slope: float


def largest(field: Field, n: int, common: float, function: Any, *, slope: bool = False) -> Largest:
    """Of the largest of n values that have a part of variance ``common`` in common; its slope only behind the trace."""
    points, weights = _largest_rule(field, n, common)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(_NODES)
    node_weights = node_weights / node_weights.sum()
    z = points[:, None] + math.sqrt(common) * nodes
    values = in_numpy(function)(z)
    given = weights @ values
    mean = float(given @ node_weights)
    steep = slope_of(function)(z) ** 2 if slope else np.ones_like(z)
    return Largest(
        mean,
        float(weights @ values**2 @ node_weights),
        float(given**2 @ node_weights) - mean**2,
        float(weights @ steep @ node_weights),
    )


def _largest_rule(field: Field, n: int, common: float) -> tuple[Any, Any]:
    """Points and weights of the distribution of the largest of n independent values."""
    mean, second = float(field.mean.mean()), field.mean_square
    deviation = math.sqrt(max(second - mean * mean - common, 0.0))
    grid = np.linspace(-8.0, 8.0, 1601)
    density = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (grid[1] - grid[0])])
    weights = density * n * np.clip(below, 0, 1) ** (n - 1)
    return mean + deviation * grid, weights / weights.sum()


def shared_variance(field: Field) -> float:
    """The variance that entries at different positions of a sample have in common."""
    mean = float(field.mean.mean())
    within = float(_own(field).mean()) if field.has_pixels else field.pair_means()[1]
    return float(np.clip(within - mean * mean, 0.0, max(field.mean_square - mean * mean, 0.0)))


__all__ = ["increases", "largest", "shared_variance"]
