"""Sums and means over dimensions, and what measures spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Role
from gradvitals.maths.roles import summed
from gradvitals.maths.scatter import NONE


def _dims(operation: Operation, rank: int, at: int = 1) -> list[int]:
    given = operation.argument(at, "dim")
    if given is None or given == []:
        return list(range(rank))
    return [d % rank for d in (given if isinstance(given, (list, tuple)) else [given])]


@rule("mean", "sum", "nansum", "nanmean")
def _mean(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    before = x.field
    rank = len(before.layout)
    dims = _dims(operation, rank) if "dim" in str(operation.function) or len(operation.args) > 1 else list(range(rank))
    keep = bool(operation.argument(2, "keepdim", False))  # noqa: FBT003
    n = math.prod(axis.size for d in dims for axis in before.layout[d])
    name = operation.name.removeprefix("aten::")
    factor = 1 / n if "mean" in name else 1.0
    made = summed(before, dims).times(factor)
    made = made.drawn(before.scatter)
    kept = made.layout
    if not keep:
        made = made.with_layout(tuple(dim for d, dim in enumerate(kept) if d not in dims))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient if keep else gradient.with_layout(widened(gradient.layout, dims, rank))
        return [spread_to(g.times(factor), before.layout)]

    node = Node(made)
    if name == "mean" and _only_units(before, dims):
        node.tags["unit-mean-of"] = x.key
    if "square-of" in x.tags and _only_units(before, dims):
        node = Node(_certain(made))
        node.tags["mean-square-of"] = x.tags["square-of"]
    operation.emit(made, [x], pullback, node=node)


def _certain(field: Field) -> Field:
    """A mean square over units varies together with what it will divide: as a divisor it counts as its mean."""
    return replace(field, second=field.mean**2, kernel=field.outer_mean(), inherited=NONE, kurtosis=1.0)


def _only_units(field: Field, dims: Sequence[int]) -> bool:
    return all(axis.role is Role.UNIT for d in dims for axis in field.layout[d])


def widened(layout: tuple[tuple[Axis, ...], ...], dims: Sequence[int], rank: int) -> tuple[tuple[Axis, ...], ...]:
    rest = iter(layout)
    return tuple(() if d in dims else next(rest) for d in range(rank))


@rule("var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm")
def _spread(operation: Operation) -> None:
    """Nearly certain numbers: their own gradient carries a share of one in the number of entries, and is left out."""
    x = operation.node(operation.args[0])
    before = x.field
    rank = len(before.layout)
    name = operation.name.removeprefix("aten::")
    norm = "norm" in name
    dims = (
        _dims(operation, rank, 2 if norm else 1) if len(operation.args) > 1 or operation.kwargs else list(range(rank))
    )
    keep = bool(operation.argument(3, "keepdim", False))  # noqa: FBT003
    n = math.prod(axis.size for d in dims for axis in before.layout[d])
    average = summed(before, dims).times(1 / n)
    layout = average.layout
    squares = _averaged(before, dims)
    value = np.maximum(squares * n if norm else (squares - average.second) * _correction(operation, n), 0.0)
    value = value if name.startswith("var") else np.sqrt(value)
    made = Field(layout, value, value**2, np.multiply.outer(_flat(value, average), _flat(value, average)))
    if not keep:
        cut = tuple(dim for d, dim in enumerate(layout) if d not in dims)
        made, average = made.with_layout(cut), average.with_layout(cut)
    outputs = operation.output if isinstance(operation.output, (tuple, list)) else (operation.output,)
    node = Node(made)
    if _only_units(before, dims):
        node.tags["mean-square-of"] = x.key
    operation.emit(made, [], None, output=outputs[0], node=node)
    if len(outputs) > 1:

        def pullback(gradient: Field) -> Sequence[Field]:
            g = gradient if keep else gradient.with_layout(widened(gradient.layout, dims, rank))
            return [spread_to(g.times(1 / n), before.layout)]

        made_ = operation.emit(average, [x], pullback, output=outputs[1])
        if _only_units(before, dims):
            made_.tags["unit-mean-of"] = x.key


def _correction(operation: Operation, n: int) -> float:
    """What makes a variance one of so many entries less one, unless it is asked for without."""
    correction = operation.kwargs.get("correction", 1)
    if operation.function is not None and "unbiased" in str(operation.function._schema):  # noqa: SLF001
        at = 2 if "dim" in str(operation.function._schema) else 1  # noqa: SLF001
        correction = 1 if operation.argument(at, "unbiased", True) else 0  # noqa: FBT003
    return n / max(n - (1 if correction is None else correction), 1)


def _averaged(field: Field, dims: Sequence[int]) -> np.ndarray:
    """E[x²] averaged over the mapped axes of some dimensions."""
    axes, at = [], 0
    for d, dim in enumerate(field.layout):
        for axis in dim:
            if axis.is_mapped:
                if d in dims:
                    axes.append(at)
                at += 1
    return field.second.mean(axis=tuple(axes)) if axes else field.second


def _flat(value: np.ndarray, like: Field) -> np.ndarray:
    pixels = tuple(at for at, axis in enumerate(like.mapped) if axis.role is Role.PIXEL)
    return value.mean(axis=pixels) if pixels else value


@rule("cumsum")
def _cumsum(operation: Operation) -> None:
    from gradvitals.frameworks.torch.prediction.linear import mixed
    from gradvitals.frameworks.torch.prediction.values import Constant

    x = operation.node(operation.args[0])
    dim = operation.args[1] % len(x.field.layout)
    axes = x.field.layout[dim]
    if len(axes) != 1 or axes[0].role is not Role.PLACE or x.field.has_pixels:
        raise NotImplementedError("a running sum over something else than places")
    import torch

    mixed(
        operation, x, dim, Constant(torch.tril(torch.ones(axes[0].size, axes[0].size, device="cpu"))), transposed=False
    )


__all__ = ["gathered_to"]
