"""The largest entry over dimensions: what max pooling is without windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.torch.prediction import repeated
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.pooling import increases, largest, shared_variance
from gradvitals.frameworks.torch.prediction.reductions import widened
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import spread_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.roles import summed


@rule("max", "amax")
def _maximum(operation: Operation) -> None:
    node = operation.node(operation.args[0])
    rank = len(node.field.layout)
    given = operation.argument(1, "dim", ())
    dims = [d % rank for d in (given if isinstance(given, (list, tuple)) else [given])] or list(range(rank))
    positions = operation.output[1:] if isinstance(operation.output, (tuple, list)) else ()
    if positions and all(axis.role is Role.UNIT for d in dims for axis in node.field.layout[d]):
        raise NotImplementedError("the largest unit and which it is")
    keep = bool(operation.argument(2, "keepdim", False))  # noqa: FBT003
    rising = node.source is not None and increases(node)
    origin = node.root if rising else node
    function = node.root_function if rising else (lambda z: z)
    before = origin.field
    n = math.prod(axis.size for d in dims for axis in before.layout[d])
    average = summed(before, dims).times(1 / n)
    common = shared_variance(before)
    top = largest(before, n, common, function)
    shape = average.second.shape
    # What two samples share moves their largest entries as it moves their averages.
    share = np.clip((average.kernel - average.outer_mean()) / max(common, 1e-300), 0.0, 1.0)
    made = Field(
        average.layout,
        np.full(shape, top.mean),
        np.full(shape, top.second),
        top.mean**2 + share * top.shared,
        before.scatter,
        3.0,
        blur=before.blur,
        shared_blur=before.shared_blur,
    ).consistent()
    if not keep:
        made = made.with_layout(tuple(dim for d, dim in enumerate(made.layout) if d not in dims))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient if keep else gradient.with_layout(widened(gradient.layout, dims, rank))
        slope = largest(before, n, common, function, slope=True).slope
        g = spread_to(g.scaled(slope / n), before.layout)
        return [replace(g, kernel=np.zeros_like(g.kernel)).consistent()]  # different units have it at different places

    result = Node(made)
    if origin is not node:  # what arrives at the function's own output goes past it

        def shown(gradient: Field) -> Sequence[Field]:
            g = gradient if keep else gradient.with_layout(widened(gradient.layout, dims, rank))
            g = spread_to(g.scaled(1 / n), node.field.layout)
            return [replace(g, kernel=np.zeros_like(g.kernel)).consistent()]

        operation.trace.steps.append(Step(result, (node,), shown, shown=True, name=operation.name))
    operation.emit(made, [origin], pullback, node=result)
    for at, output in enumerate(positions, 1):
        repeated.bind_drawn(operation, output, at, made.layout)
