"""Group and instance norm: over some channels and all positions of each sample."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradvitals.frameworks.torch.prediction.normalisation import affine, by_place, channels_as_units
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
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
    whole = _Normal.of(x.field, units, epsilon)
    made, square = affine(operation, whole.field, weight, bias)
    joined = x.tags.get("joined")
    parts: tuple[Node, ...] = joined if isinstance(joined, tuple) else ()
    if any(part.field.layout[1] and _channels(part.field) % units for part in parts):  # groups across the seams
        parts = ()
    node = operation.emit(spread_to(made, made.layout))
    step = Step(node, (x,), lambda g: whole.back(g, square), shown=bool(parts), name=operation.name)
    operation.trace.steps.append(step)
    for part in parts:  # channels of different sizes, each group divided by its own
        own = _Normal.of(part.field, units, epsilon)
        pullback = functools.partial(_back_of_part, own, square=square)
        operation.trace.steps.append(Step(node, (part,), pullback, name=operation.name))


def _channels(field: Field) -> int:
    return math.prod(axis.size for axis in field.layout[1])


def _back_of_part(normal: _Normal, gradient: Field, *, square: float) -> Sequence[Field]:
    layout = channels_as_units(normal.before).layout
    return normal.back(gradient.with_layout((gradient.layout[0], layout[1], *gradient.layout[2:])), square)


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """A signal normalised in groups: what is left of it, and what each sample was divided by."""

    before: Field
    spatial: Field
    field: Field
    root: Any
    by: Any
    units: int
    pixels: int

    @classmethod
    def of(cls, before: Field, units: int, epsilon: float) -> _Normal:
        """Normalise it."""
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
        spread, by = average.reshape(mapped_shape), root.reshape(mapped_shape)
        normal = replace(
            field,
            mean=(field.mean - mean.reshape(mapped_shape)) * by,
            second=np.maximum(field.second - spread, 0.0) * by**2,
            kernel=kernel.reshape(field.kernel.shape),
            inherited=NONE,
            kurtosis=1.0,
            own=None,
        )
        return cls(before, field, normal, root, by, units, pixels)

    def back(self, gradient: Field, square: float) -> Sequence[Field]:
        """The gradient with respect to the signal, less its mean and what goes along the signal."""
        g, _ = alike(gathered_to(gradient, self.spatial.layout), self.spatial)
        n = len(self.root)
        k = g.kernel.reshape(n, n)
        g_second = g.place_second().reshape(-1)
        g_own = np.diagonal(k)
        g_average = (g_second / self.pixels + (1 - 1 / self.pixels) * g_own) / self.units
        along = g_second / (self.units * self.pixels)
        new = np.array(k) * np.multiply.outer(self.root, self.root) * square
        np.fill_diagonal(new, (g_own - g_average) * self.root**2 * square)
        taken = (g_average + along).reshape(self.by.shape)
        back = replace(
            g,
            second=np.maximum(g.second - taken, 0.0) * self.by**2 * square,
            kernel=new.reshape(g.kernel.shape),
            mean=np.zeros_like(g.mean),
        )
        return [gathered_to(back, self.before.layout)]
