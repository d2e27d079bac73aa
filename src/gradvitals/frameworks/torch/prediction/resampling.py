"""Interpolation and padding that copies: along each axis every output is a fixed mixture of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.convolution import _as_spatial, _settled, affordable, spatially
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.pooling import _own
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role
from gradvitals.maths.scatter import new_cause


@rule(
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d")),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
)
def _resampled(operation: Operation) -> None:
    node = operation.node(operation.args[0])
    shape, out = tuple(operation.args[0].shape)[2:], tuple(operation.first.shape)[2:]
    before = affordable(spatially(node.field), out)
    matrices = [_matrix(operation, shape, axis) for axis in range(len(shape))]
    made = _settled(_mixed(before, matrices, out))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = _as_spatial(gathered_to(gradient, made.layout), before)
        back = _mixed(g, [m.T for m in matrices], shape)
        back = replace(back, mean=np.zeros_like(back.mean))
        return [gathered_to(gathered_to(back, before.layout), node.field.layout)]

    operation.emit(replace(made, inherited=node.field.scatter, cause=new_cause()), [node], pullback)


def _matrix(operation: Operation, shape: Sequence[int], axis: int) -> Any:
    """What the operation makes of each input along one axis, (outputs, inputs): signals constant along the others."""
    n = shape[axis]
    basis = torch.eye(n, dtype=torch.float64, device="cpu").reshape(
        n, 1, *(n if d == axis else 1 for d in range(len(shape)))
    )
    result = operation.function(basis.expand(n, 1, *shape).contiguous(), *operation.args[1:], **operation.kwargs)
    line = result[(slice(None), 0, *(slice(None) if d == axis else 0 for d in range(len(shape))))]
    return line.numpy().T


def _mixed(field: Field, matrices: Sequence[Any], out: Sequence[int]) -> Field:
    """Positions mixed along each axis."""
    rank = len(field.layout)
    axes = [field.array_axis(d, 0) for d in range(2, rank)]
    mean = _along(field.mean, matrices, [m for m, _ in axes])
    role = Role.PIXEL if field.has_pixels else Role.PLACE
    layout = (*field.layout[:2], *((Axis(n, role),) for n in out))
    if field.has_pixels:
        own = _own(field)
        spread = own.reshape([*own.shape, *[1] * (rank - 2)]) if field.layout[0] else own
        squares = _along(field.second - spread, [m**2 for m in matrices], [m for m, _ in axes])
        total = _outer([m.sum(axis=1) for m in matrices])
        return replace(
            field,
            layout=layout,
            mean=mean,
            second=np.maximum(squares + total**2 * spread, 0.0),
            kernel=field.kernel * float(total.mean()) ** 2,
            profile=None,
        )
    kernel = field.kernel
    for matrix, (_, p) in zip(matrices, axes, strict=True):
        kernel = np.moveaxis(np.tensordot(matrix, kernel, (1, p)), 0, p)
        at = field.places + p
        kernel = np.moveaxis(np.tensordot(matrix, kernel, (1, at)), 0, at)
    n = math.prod(kernel.shape[: field.places])
    second = np.diagonal(kernel.reshape(n, n)).reshape(kernel.shape[: field.places])
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)


def _along(array: Any, matrices: Sequence[Any], axes: Sequence[int]) -> Any:
    for matrix, axis in zip(matrices, axes, strict=True):
        array = np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)
    return array


def _outer(vectors: Sequence[Any]) -> Any:
    result = np.ones(())
    for vector in vectors:
        result = np.multiply.outer(result, vector)
    return result
