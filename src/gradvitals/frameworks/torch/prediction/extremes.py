"""The largest entry over dimensions: what max pooling is without windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.pooling import increases, largest, slope_at_largest
from gradvitals.frameworks.torch.prediction.reductions import widened
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import spread_to
from gradvitals.maths.field import Field
from gradvitals.maths.roles import summed


@rule("max", "amax")
def _maximum(operation: Operation) -> None:
    node = operation.node(operation.args[0])
    rank = len(node.field.layout)
    given = operation.argument(1, "dim", ())
    dims = [d % rank for d in (given if isinstance(given, (list, tuple)) else [given])] or list(range(rank))
    keep = bool(operation.argument(2, "keepdim", False))  # noqa: FBT003
    rising = node.source is not None and increases(node)
    origin = node.root if rising else node
    function = node.root_function if rising else (lambda z: z)
    before = origin.field
    n = math.prod(axis.size for d in dims for axis in before.layout[d])
    average = summed(before, dims).times(1 / n)
    # What all entries have in common moves the largest one as it moves the average; the rest makes it the largest.
    common = np.maximum(average.second - average.mean**2, 0.0)
    share = min(float(common.mean()) / max(before.mean_square - float((before.mean**2).mean()), 1e-300), 1.0)
    apart = replace(before, second=before.mean**2 + (before.second - before.mean**2) * (1 - share))
    mean, second = largest(apart, n, function)
    slope = slope_at_largest
    shape = average.second.shape
    by_place = average.kernel - average.outer_mean()
    made = Field(
        average.layout,
        np.full(shape, mean),
        second + common,
        mean**2 + by_place,
        before.spread,
        3.0,
        blur=before.blur,
        shared_blur=before.shared_blur,
    ).consistent()
    if not keep:
        made = made.with_layout(tuple(dim for d, dim in enumerate(made.layout) if d not in dims))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient if keep else gradient.with_layout(widened(gradient.layout, dims, rank))
        g = spread_to(g.scaled(slope(apart, n, function) / n), before.layout)
        return [replace(g, kernel=np.zeros_like(g.kernel)).consistent()]  # different units have it at different places

    operation.emit(made, [origin], pullback, node=Node(made))
