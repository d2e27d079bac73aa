"""Convolutions: independent weights over a window and some channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradvitals.frameworks.torch.prediction.linear import Moments, moments_of, plus, taken_back
from gradvitals.frameworks.torch.prediction.measured import MOST_PLACES, most_places, spatial_roles
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Weight
from gradvitals.frameworks.torch.prediction.windows import Windows, sliding, transposed
from gradvitals.maths.alignment import gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Role, constant_field
from gradvitals.maths.roles import fused, with_role
from gradvitals.maths.scatter import Scatter


@rule("convolution", "_convolution", "mkldnn_convolution", "convolution_overrideable")
def _convolution(operation: Operation) -> None:
    x, weight, bias, stride, padding, dilation, is_transposed, _, groups = operation.args[:9]
    shape, out = tuple(x.shape), tuple(operation.first.shape)
    spatial = len(shape) - 2
    stride, padding, dilation = (_each(item, spatial) for item in (stride, padding, dilation))
    value = operation.value(weight)
    if not isinstance(value, (Constant, Weight)):
        raise NotImplementedError("a convolution with a signal")
    positions = spatial_roles([shape[0], *shape[2:]])
    node = operation.node(x, [positions[0], Role.UNIT, *positions[1:]])
    channels = int(weight.shape[0 if is_transposed else 1]) // (int(groups) if is_transposed else 1)
    make = transposed if is_transposed else sliding
    windows = make(shape[2:], weight.shape[2:], stride, padding, dilation, out[2:])
    before = affordable(spatially(node.field), windows.outputs)
    moments = moments_of(value)
    made = convolved(before, windows, channels * _variance(moments), out[1], int(groups))
    if moments.mean:
        made = _with_mean(made, before, windows, channels, moments.mean)
    seen = (
        convolved(before, windows, 1 / windows.taps, out[1])
        if moments.mean or not moments.second
        else (made.times((channels * moments.second * windows.taps) ** -0.5))
    )
    operation.learns(value, seen)
    if bias is not None:
        operation.learns(bias, None)
        added = _bias(operation.value(bias), made)
        made = plus(made, added)
    each = int(weight.shape[1]) if is_transposed else int(weight.shape[0]) // int(groups)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        through = each * moments.second * taken_back(g.excess, channels * windows.taps)
        back = convolved(_as_spatial(g, before), windows.reversed(), through, shape[1], int(groups))
        back = replace(back, inherited=back.inherited + Scatter.left_out(1 / max(shape[1], 1)))
        return [gathered_to(gathered_to(back, before.layout), node.field.layout)]

    operation.emit(made, [node], pullback)


def _variance(moments: Moments) -> float:
    return max(moments.second - moments.mean**2, 0.0)


def _each(item: Any, n: int) -> list[int]:
    values = list(item) if isinstance(item, (list, tuple)) else [item]
    return [int(v) for v in (values if len(values) == n else values * n)]


def _bias(value: Constant | Weight, made: Field) -> Field:
    if isinstance(value, Weight):
        second, mean = value.second, value.mean
    else:
        entries = value.value.detach().double()
        second, mean = float(entries.square().mean()), float(entries.mean())
    return spread_to(constant_field(((),) * len(made.layout), second, mean), made.layout)


def spatially(field: Field) -> Field:
    """A field with one axis per spatial dimension: a place or a pixel, and units as channels."""
    for at in range(len(field.layout[1])):
        field = with_role(field, 1, at, Role.UNIT)
    role = Role.PIXEL if field.has_pixels else Role.PLACE
    if role is Role.PLACE and not any(axis.is_mapped for dim in field.layout[2:] for axis in dim):
        role = Role.PIXEL
    for d in range(2, len(field.layout)):
        for at in range(len(field.layout[d])):
            field = with_role(field, d, at, role)
        if len(field.layout[d]) > 1:
            field = fused(field, d, 0, len(field.layout[d]))
        if not field.layout[d]:
            field = with_axis(field, d, role)
    return field


def affordable(field: Field, outputs: Sequence[int]) -> Field:
    """The same with pixels in place of places where the outputs would be too many to be told apart."""
    held = field.second.shape[0] if field.layout[0] and field.layout[0][0].is_mapped else 1
    if field.has_pixels or held * math.prod(outputs) <= most_places(len(outputs)):
        return field
    for d in range(2, len(field.layout)):
        field = with_role(field, d, 0, Role.PIXEL)
    return field


def with_axis(field: Field, dim: int, role: Role) -> Field:
    """An axis of size 1 where a dimension has none."""
    layout = (*field.layout[:dim], (Axis(1, role),), *field.layout[dim + 1 :])
    m, p = field.array_axis(dim, 0)
    kernel = field.kernel
    if role is Role.PLACE:
        kernel = np.expand_dims(np.expand_dims(kernel, field.places + p), p)
    return replace(
        field, layout=layout, mean=np.expand_dims(field.mean, m), second=np.expand_dims(field.second, m), kernel=kernel
    )


def _as_spatial(gradient: Field, before: Field) -> Field:
    """A gradient with spatial axes like those of the input."""
    g = spatially(gradient)
    role = Role.PIXEL if before.has_pixels else Role.PLACE
    for d in range(2, len(g.layout)):
        g = with_role(g, d, 0, role, gradient=True)
    return g


def convolved(field: Field, windows: Windows, factor: float, channels: int, groups: int = 1) -> Field:
    """A sum over windows with independent weights; ``factor`` is channels times their variance."""
    # What a unit sums has correlations by chance: less over taps that differ, more where it sees one group only.
    same, different = field.pair_means()
    alike = (different / same) ** 2 if same > 0 else 1.0
    taps = 1 / (alike + (1 - alike) / windows.taps)
    shared = field.shared_blur + max(field.blur - field.shared_blur, 0.0) * groups / taps
    rank = len(field.layout)
    axes = [field.array_axis(d, 0) for d in range(2, rank)]
    second = np.maximum(windows.summed_map(field.second, [m for m, _ in axes]), 0.0) * factor
    pixels = field.has_pixels
    profile = None
    if pixels:
        profile = windows.summed_rows(field.rows, [m for m, _ in axes])
        average = max(float(profile.mean()), 1e-300)
        profile = profile / average
        kernel = field.kernel * average * factor
    else:
        kernel = windows.summed_kernel(field.kernel, [p for _, p in axes], field.places) * factor
    role = Role.PIXEL if pixels else Role.PLACE
    layout = (
        field.layout[0],
        (Axis(channels, Role.UNIT),) if channels > 1 else (),
        *(((Axis(n, role),)) for n in windows.outputs),
    )
    made = Field(
        layout, np.zeros_like(second), second, kernel, field.scatter, 3.0, profile, shared + 1 / channels, shared
    )
    made = made.consistent()
    return _settled(made)


def _settled(field: Field) -> Field:
    """Drop spatial axes of size 1; positions that have become few are told apart."""
    n = field.second.shape[0] if field.layout[0] else 1
    sizes = [axis.size for dim in field.layout[2:] for axis in dim]
    if field.has_pixels and n * math.prod(sizes) <= min(MOST_PLACES // 2, most_places(len(sizes))):
        for d in range(2, len(field.layout)):
            field = with_role(field, d, 0, Role.PLACE)
    for d in range(2, len(field.layout)):
        if field.layout[d] and field.layout[d][0].size == 1:
            field = without_axis(field, d)
    return field


def without_axis(field: Field, dim: int) -> Field:
    """Drop an axis of size 1."""
    axis = field.layout[dim][0]
    m, p = field.array_axis(dim, 0)
    places = field.places
    layout = (*field.layout[:dim], (), *field.layout[dim + 1 :])
    kernel = field.kernel
    if axis.role is Role.PLACE:
        kernel = kernel.squeeze((p, places + p))
    return replace(
        field, layout=layout, mean=field.mean.squeeze(m), second=field.second.squeeze(m), kernel=kernel
    ).consistent()


def _with_mean(made: Field, before: Field, windows: Windows, channels: int, mean: float) -> Field:
    """What weights of a common mean add: the sum over window and channels, times that mean."""
    axes = [before.array_axis(d, 0)[0] for d in range(2, len(before.layout))]
    total = windows.summed_map(before.mean, axes) * channels * mean
    if total.shape != made.mean.shape:
        raise NotImplementedError("weights of a mean that isn't zero")
    own = windows.summed_map(np.maximum(before.second - before.mean**2, 0.0), axes) * channels * mean**2
    added = replace(made, mean=total, second=total**2 + own)
    pixels = tuple(at for at, axis in enumerate(made.mapped) if axis.role is Role.PIXEL)
    flat = total.mean(axis=pixels) if pixels else total
    return replace(
        made, mean=total, second=made.second + added.second, kernel=made.kernel + np.multiply.outer(flat, flat)
    ).consistent()
