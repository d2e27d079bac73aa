"""Group and instance norm: over some channels and all positions of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradvitals.frameworks.torch.prediction.normalisation import affine, by_place, channels_as_units
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike, gathered_to, spread_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.roles import with_role
from gradvitals.maths.scatter import NONE


@rule("native_group_norm", "group_norm")
def _group_norm(operation: Operation) -> None:
    shape = operation.args[0].shape
    x = operation.node(operation.args[0])
    if operation.name == "aten::native_group_norm":
        weight, bias, groups, epsilon = operation.args[1], operation.args[2], operation.args[6], operation.args[7]
    else:
        groups, weight, bias = operation.args[1], operation.argument(2, "weight"), operation.argument(3, "bias")
        epsilon = operation.argument(4, "eps", 1e-5)
    _grouped(operation, x, weight, bias, int(shape[1]) // int(groups), float(epsilon))


def _grouped(operation: Operation, x: Node, weight: Any, bias: Any, units: int, epsilon: float) -> None:
    """Normalise each sample over some channels and all its positions, which here all become pixels."""
    before = x.field
    field = channels_as_units(before)
    for d in range(2, len(field.layout)):
        for at in range(len(field.layout[d])):
            field = with_role(field, d, at, Role.PIXEL)
    pixels = math.prod(axis.size for axis in field.axes if axis.role is Role.PIXEL)
    n = field.kernel.shape[0] if field.places else 1
    flat = field.kernel.reshape(n, n)
    own = np.diagonal(flat)
    second = field.place_second().reshape(-1)
    mean = by_place(field, field.mean).reshape(-1)
    average = (second / pixels + (1 - 1 / pixels) * own) / units + (1 - 1 / units) * mean**2
    variance = np.maximum(second - average, 0.0)
    root = 1 / np.sqrt(variance + epsilon)
    cross = flat / units + (1 - 1 / units) * np.multiply.outer(mean, mean)
    kernel = (flat - cross) * np.multiply.outer(root, root)
    np.fill_diagonal(kernel, (own - average) * root**2)
    mapped_shape = [n if axis.role is Role.PLACE else 1 for axis in field.mapped]
    spread = average.reshape(mapped_shape)
    by = root.reshape(mapped_shape)
    normal = replace(
        field,
        mean=(field.mean - mean.reshape(mapped_shape)) * by,
        second=np.maximum(field.second - spread, 0.0) * by**2,
        kernel=kernel.reshape(field.kernel.shape),
        inherited=NONE,
        kurtosis=1.0,
        own=None,
    )
    made, square = affine(operation, normal, weight, bias)
    entries = units * pixels

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, field.layout)
        g, _ = alike(g, field)
        k = g.kernel.reshape(n, n)
        g_second = g.place_second().reshape(-1)
        g_own = np.diagonal(k)
        g_average = (g_second / pixels + (1 - 1 / pixels) * g_own) / units
        along = g_second / entries
        new = np.array(k) * np.multiply.outer(root, root) * square
        np.fill_diagonal(new, (g_own - g_average) * root**2 * square)
        taken = (g_average + along).reshape(mapped_shape)
        back = replace(
            g,
            second=np.maximum(g.second - taken, 0.0) * by**2 * square,
            kernel=new.reshape(g.kernel.shape),
            mean=np.zeros_like(g.mean),
        )
        return [gathered_to(back, before.layout)]

    operation.emit(spread_to(made, made.layout), [x], pullback)
