"""Entries picked by known positions, and entries in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.layouts import moved
from gradvitals.frameworks.torch.prediction.linear import mixed
from gradvitals.frameworks.torch.prediction.measured import measured, place_roles
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.pieces import _taken, added_back, piece
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Field, Role, shape_of
from gradvitals.maths.roles import fused, reshaped


@rule("index_select", "index", "gather", "take_along_dim", "_unsafe_index")
def _index(operation: Operation) -> None:
    x = operation.args[0]
    name = operation.name.removeprefix("aten::")
    table = operation.value(x)
    if isinstance(table, Constant) and table.learned:
        _from_table(operation, table)
        return
    if name == "index_select":
        dim, given = operation.args[1] % x.dim(), operation.value(operation.args[2])
        if isinstance(given, Constant):
            _taken(operation, x, dim, given.value.tolist(), operation.first, drop=False)
            return
    if name in {"gather", "take_along_dim"}:
        _gathered(operation)
        return
    if name in {"index", "_unsafe_index"}:
        at, known = _positions(operation, operation.args[1])
        if len(at) == 1 and known[0].dim() == 1:
            _taken(operation, x, at[0], (known[0] % x.shape[at[0]]).tolist(), operation.first, drop=False)
            return
        if at == list(range(len(at))):
            _rows_taken(operation, x, known)
            return
        if len(at) > 1 and _is_grid(known, at):
            node = operation.node(x)
            field = node.field
            lists = [k.flatten().tolist() for k in known]
            for d, positions in zip(at, lists, strict=True):
                field = piece(field, d, positions)

            def pullback(gradient: Field) -> Sequence[Field]:
                g = gradient
                befores = [node.field]
                for d, positions in zip(at, lists, strict=True):
                    befores.append(piece(befores[-1], d, positions))
                for number in range(len(at) - 1, -1, -1):
                    g = added_back(g, befores[number], at[number], lists[number])
                return [g]

            moved(operation, node, field, pullback)
            return
    raise NotImplementedError("an index of this kind")


def _positions(operation: Operation, indices: Sequence[Any]) -> tuple[list[int], list[torch.Tensor]]:
    """The dimensions that are indexed, and the positions along each; a mask of several dimensions indexes them all."""
    at: list[int] = []
    known: list[torch.Tensor] = []
    dim = 0
    for item in indices:
        value = None if item is None else operation.value(item)
        if item is not None and not isinstance(value, Constant):
            raise NotImplementedError("an index that isn't known")
        if value is None:
            dim += 1
            continue
        along = list(value.value.nonzero().unbind(1)) if value.held.dtype == torch.bool else [value.value]
        at += range(dim, dim + len(along))
        known += along
        dim += len(along)
    return at, known


def _gathered(operation: Operation) -> None:
    """Entries by a known index that is the same for all units: one for everything, or each sample its own."""
    along = "along" in operation.name
    x, dim = operation.args[0], operation.argument(2 if along else 1, "dim")
    given = operation.value(operation.args[1 if along else 2])
    if not isinstance(given, Constant) or dim is None:
        raise NotImplementedError("an index that isn't known")
    dim %= x.dim()
    index = given.value.expand(*operation.first.shape).movedim(dim, 0)
    flat = index.reshape(len(index), -1)
    if bool((flat == flat[:, :1]).all()):
        _taken(operation, x, dim, flat[:, 0].tolist(), operation.first, drop=False)
        return
    by_sample = index.movedim(0, dim).reshape(*operation.first.shape[: dim + 1], -1)
    if dim == 1 and bool((by_sample == by_sample[..., :1]).all()) and operation.first.shape[0] == x.shape[0]:
        picked = by_sample[..., 0]
        _rows_taken(operation, x, [torch.arange(len(picked), device="cpu")[:, None].expand_as(picked), picked])
        return
    raise NotImplementedError("entries picked each from its own place")


def _from_table(operation: Operation, table: Constant) -> None:
    """Entries of a learned table at known positions: biases by relative position."""
    if operation.name not in {"aten::index", "aten::_unsafe_index"}:
        raise NotImplementedError("an index of this kind in a table")
    known = [None if item is None else operation.value(item) for item in operation.args[1]]
    if any(item is not None and not isinstance(item, Constant) for item in known):
        raise NotImplementedError("an index that isn't known")
    indices = [None if item is None else item.value for item in known]
    values = operation.function(table.value.detach(), indices)
    first = next(at for at, item in enumerate(indices) if item is not None)
    positions = np.broadcast_shapes(*(tuple(item.shape) for item in indices if item is not None))
    roles = [Role.UNIT] * values.dim()
    roles[first : first + len(positions)] = place_roles(positions)
    node = Node(measured(values, roles))
    operation.emit(node.field, node=node)


@rule("index_add", "scatter_add")
def _index_add(operation: Operation) -> None:
    """Sums of rows by known positions: a matrix of ones over places."""
    target, dim, index, source = operation.args[:4]
    x = operation.node(source)
    dim %= len(x.field.layout)
    before, known = operation.value(target), operation.value(index)
    if not isinstance(known, Constant) or not isinstance(before, Constant) or bool(before.value.any()):
        raise NotImplementedError("a sum into something that isn't zero, or by unknown positions")
    at = known.value
    if at.dim() > 1:
        at = at.movedim(dim, 0).reshape(at.shape[dim], -1)
        if not bool((at == at[:, :1]).all()):
            raise NotImplementedError("entries scattered each to its own place")
        at = at[:, 0]
    matrix = torch.zeros(operation.first.shape[dim], x.field.layout[dim][0].size, dtype=torch.float64, device="cpu")
    matrix[at, torch.arange(len(at), device="cpu")] = 1.0
    mixed(operation, x, dim, Constant(matrix), transposed=False)


def _is_grid(values: Sequence[torch.Tensor], at: Sequence[int]) -> bool:
    """Whether index tensors are one-dimensional each along an axis of its own (``x[:, rows[:, None], columns]``)."""
    consecutive = list(at) == list(range(at[0], at[0] + len(at)))
    rank = len(values)
    shapes = [tuple(v.shape) for v in values]
    return consecutive and all(
        v.numel() == max(s[-(rank - i)] if len(s) >= rank - i else 1, 1)
        for i, (v, s) in enumerate(zip(values, shapes, strict=True))
    )


def _rows_taken(operation: Operation, x: Any, values: Sequence[torch.Tensor]) -> None:
    """Rows picked by known positions in the first dimensions, as a pooler picks the last token of each sample."""
    node = operation.node(x)
    before = node.field
    lead = len(values)
    sizes = [int(n) for n in x.shape[:lead]]
    fused_field = _joined_dims(before, lead)
    broadcast = torch.broadcast_tensors(*values)  # type: ignore[no-untyped-call]
    flat = torch.zeros_like(broadcast[0])
    for value, n in zip(broadcast, sizes, strict=True):
        flat = flat * n + value % n
    index = flat.flatten().tolist()
    made = piece(fused_field, 0, index)
    shape = (*broadcast[0].shape, *x.shape[lead:])
    made = reshaped(made, shape) if broadcast[0].dim() != 1 else made

    def pullback(gradient: Field) -> Sequence[Field]:
        g = reshaped(gradient, (len(index), *x.shape[lead:])) if broadcast[0].dim() != 1 else gradient
        g = added_back(g, fused_field, 0, index)
        return [gathered_to(reshaped(g, tuple(x.shape)), before.layout)]

    moved(operation, node, made, pullback)


def _joined_dims(field: Field, lead: int) -> Field:
    axes = tuple(axis for dim in field.layout[:lead] for axis in dim)
    joined = field.with_layout((axes, *field.layout[lead:]))
    if any(axis.role is Role.PLACE for axis in axes) and joined.second.shape[0] != axes[0].size:
        raise NotImplementedError("rows of a batch that is too large to be kept")
    return fused(joined, 0, 0, len(axes)) if len(axes) > 1 else joined


@rule("roll", "flip")
def _roll(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    field = x.field
    rank = len(field.layout)
    dims = operation.argument(2 if "roll" in operation.name else 1, "dims", ())
    orders: list[tuple[int, Any]] = []
    for at, d in enumerate(dims):
        n = shape_of(field.layout)[d % rank]
        if "roll" in operation.name:
            orders.append((d % rank, np.roll(np.arange(n), operation.args[1][at])))
        else:
            orders.append((d % rank, np.arange(n)[::-1]))
    made = field
    for d, order in orders:
        made = _reordered(made, d, order)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        for d, order in orders:
            g = _reordered(g, d, np.argsort(order))
        return [gathered_to(g, field.layout)]

    moved(operation, x, made, pullback)


def _reordered(field: Field, dim: int, order: Any) -> Field:
    axes = field.layout[dim]
    if len(axes) != 1 or not axes[0].is_mapped:
        return field
    m, p = field.array_axis(dim, 0)
    if field.second.shape[m] != axes[0].size:
        return field
    kernel = field.kernel
    if axes[0].role is Role.PLACE:
        kernel = np.take(np.take(kernel, order, p), order, field.places + p)
    return replace(field, mean=np.take(field.mean, order, m), second=np.take(field.second, order, m), kernel=kernel)
