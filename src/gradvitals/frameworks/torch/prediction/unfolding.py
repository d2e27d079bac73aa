"""Windows laid side by side as columns (im2col), and columns added back into an image (col2im)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.torch.prediction.convolution import _as_spatial, _each, affordable, convolved, spatially
from gradvitals.frameworks.torch.prediction.measured import spatial_roles
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.windows import Windows, sliding
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.roles import reshaped


@rule("im2col")
def _unfold(operation: Operation) -> None:
    """Each column holds the channels at all taps of one window: their average is that of a sum over the window."""
    x = operation.args[0]
    if x.dim() != 4:
        raise NotImplementedError("windows of something that is no batch of images")
    sizes, windows = _windows(operation, tuple(x.shape[2:]))
    roles = spatial_roles([x.shape[0], *x.shape[2:]])
    node = operation.node(x, [roles[0], Role.UNIT, *roles[1:]])
    before = affordable(spatially(node.field), sizes)
    columns = _taps(before, windows, int(operation.first.shape[1]))
    made = _in_a_row(columns)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout).with_layout(columns.layout)
        back = convolved(_as_spatial(g, before), windows.reversed(), 1.0, int(x.shape[1]))
        return [gathered_to(gathered_to(back, before.layout), node.field.layout)]

    operation.emit(made, [node], pullback)


@rule("col2im")
def _fold(operation: Operation) -> None:
    """What falls on one pixel is added; columns that mix their channels have nothing in common there but their mean."""
    x, shape = operation.args[0], tuple(operation.first.shape)
    if x.dim() != 3:
        raise NotImplementedError("columns of something that is no batch of images")
    sizes, windows = _windows(operation, shape[2:], first=2)
    node = operation.node(x, [Role.PLACE, Role.UNIT, Role.PLACE])
    columns = _as_grid(node.field, sizes)
    before = affordable(spatially(columns), shape[2:])
    back = windows.reversed()
    centred = replace(
        before,
        mean=np.zeros_like(before.mean),
        second=np.maximum(before.second - before.mean**2, 0.0),
        kernel=before.kernel - before.outer_mean(),
    )
    made = convolved(centred, back, 1.0, shape[1])
    mean = back.summed_map(before.mean, [before.array_axis(d, 0)[0] for d in range(2, 4)]).reshape(made.mean.shape)
    shifted = replace(made, mean=mean)
    made = replace(shifted, second=made.second + mean**2, kernel=made.kernel + shifted.outer_mean())

    def pullback(gradient: Field) -> Sequence[Field]:
        g = _as_spatial(gathered_to(gradient, made.layout), before)
        back = _taps(g, windows, int(x.shape[1]))
        return [gathered_to(_in_a_row(gathered_to(back, before.layout)), _in_a_row(columns).layout)]

    operation.emit(made, [node], pullback)


def _windows(operation: Operation, image: tuple[int, ...], first: int = 1) -> tuple[list[int], Windows]:
    kernel, dilation, padding, stride = (_each(item, 2) for item in operation.args[first : first + 4])
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(image, kernel, dilation, padding, stride, strict=True)
    ]
    return sizes, sliding(image, kernel, stride, padding, dilation, sizes)


def _taps(field: Field, windows: Windows, units: int) -> Field:
    """The entries behind the taps of each window as units."""
    made = convolved(field, windows, 1 / windows.taps, units)
    axes = [field.array_axis(d, 0)[0] for d in range(2, 4)]
    mean = windows.summed_map(field.mean, axes) / windows.taps
    return replace(
        made,
        mean=mean.reshape(made.mean.shape),
        inherited=field.inherited,
        kurtosis=field.kurtosis,
        own=field.own,
        blur=field.blur,
        shared_blur=field.shared_blur,
    )


def _in_a_row(field: Field) -> Field:
    """Height and width as one dimension."""
    return field.with_layout((*field.layout[:2], (*field.layout[2], *field.layout[3])))


def _as_grid(field: Field, sizes: Sequence[int]) -> Field:
    """One dimension as height and width."""
    shape = [math.prod(axis.size for axis in dim) for dim in field.layout[:2]]
    return reshaped(field, [*shape, *sizes])
