"""Pieces of a signal along one dimension, and where their gradients belong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.linear import places_mixed
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role
from gradvitals.maths.roles import fused, with_role


def halves(field: Field, dim: int, start: int, of: int) -> Field:
    """One of several equal pieces along a dimension."""
    n = math.prod(axis.size for axis in field.layout[dim]) // of
    return piece(field, dim, range(start * n, (start + 1) * n))


def piece(field: Field, dim: int, index: Sequence[int]) -> Field:
    """The entries at some positions along a dimension."""
    axes = field.layout[dim]
    n = len(index)
    if not axes or n == math.prod(axis.size for axis in axes):
        return field
    if len(axes) > 1:
        roles = {axis.role for axis in axes}
        inner = math.prod(axis.size for axis in axes[1:])
        whole = n % inner == 0 and list(index) == list(range(index[0], index[0] + n)) and index[0] % inner == 0
        if whole and axes[0].role in (Role.UNIT, Role.COPY):
            kept = (Axis(n // inner, axes[0].role),) if n // inner > 1 else ()
            return field.with_layout((*field.layout[:dim], (*kept, *axes[1:]), *field.layout[dim + 1 :]))
        if roles <= {Role.UNIT, Role.COPY} or Role.PLACE in roles or len(roles) == 1:
            field = fused(field, dim, 0, len(axes))
        axes = field.layout[dim]
        if len(axes) > 1:
            raise NotImplementedError("a piece across several axes")
    axis = axes[0]
    new = (Axis(n, axis.role),) if n > 1 else ()
    layout = (*field.layout[:dim], new, *field.layout[dim + 1 :])
    if not axis.is_mapped:
        return field.with_layout(layout)
    m, p = field.array_axis(dim, 0)
    held = field.second.shape[m]
    chosen = np.asarray([i for i in index if i < held] or [0]) if held != axis.size else np.asarray(index)
    if n == 1 and held != axis.size:
        chosen = chosen[:1]
    mean, second, kernel = np.take(field.mean, chosen, m), np.take(field.second, chosen, m), field.kernel
    if axis.role is Role.PLACE:
        kernel = np.take(np.take(kernel, chosen, p), chosen, field.places + p)
    if n > 1:
        return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)
    mean, second = mean.squeeze(m), second.squeeze(m)
    if axis.role is Role.PLACE:
        kernel = kernel.squeeze((p, field.places + p))
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel).consistent()


def put_back(gradient: Field, before: Field, dim: int, index: Sequence[int]) -> Field:
    """The gradient with respect to a whole of which some positions were taken: zero elsewhere."""
    axes = before.layout[dim]
    total = math.prod(axis.size for axis in axes)
    share = len(index) / max(total, 1)
    if not any(axis.is_mapped for axis in axes):
        layout = (*gradient.layout[:dim], axes, *gradient.layout[dim + 1 :])
        return gathered_to(gradient.scaled(share).with_layout(layout), before.layout)
    role = Role.PLACE if any(axis.role is Role.PLACE for axis in axes) else Role.PIXEL
    wanted = (Axis(len(index), role),) if len(index) > 1 else ()
    g = gathered_to(gradient, (*before.layout[:dim], wanted, *before.layout[dim + 1 :]))
    if not wanted:
        g = replace(
            g,
            mean=np.expand_dims(g.mean, before.array_axis(dim, 0)[0]),
            second=np.expand_dims(g.second, before.array_axis(dim, 0)[0]),
            kernel=_pair_axis(g, before.array_axis(dim, 0)[1]) if role is Role.PLACE else g.kernel,
            layout=(*before.layout[:dim], (Axis(1, role),), *before.layout[dim + 1 :]),
        )
    m, p = g.array_axis(dim, 0)
    held = total
    if len(axes) == 1:
        held = before.second.shape[before.array_axis(dim, 0)[0]]
    at = np.asarray([i for i in index if i < held][: g.second.shape[m]] or [0])
    g = _padded(g, dim, m, p, at, held, role)
    whole = g.with_layout((*before.layout[:dim], (Axis(total, role),), *before.layout[dim + 1 :]))
    return gathered_to(whole, before.layout)


def added_back(gradient: Field, before: Field, dim: int, index: Sequence[int]) -> Field:
    """Like put_back, where positions may be taken several times: on average, each as often as any."""
    if len(set(index)) == len(index):
        return put_back(gradient, before, dim, index)
    axes = before.layout[dim]
    own = gradient.layout[dim]
    if len(axes) == len(own) == 1 and axes[0].role is own[0].role is Role.PLACE and not gradient.has_pixels:
        matrix = np.zeros((axes[0].size, len(index)))
        matrix[np.asarray(index), np.arange(len(index))] = 1.0
        return gathered_to(places_mixed(gradient, dim, matrix), before.layout)
    ratio = len(index) / math.prod(axis.size for axis in axes)
    g = gradient
    layout = tuple(axis for axis in g.layout[dim])
    for at in range(len(layout)):
        g = with_role(g, dim, at, Role.UNIT, gradient=True)
    g = g.scaled(ratio).with_layout(
        (*g.layout[:dim], tuple(Axis(a.size, Role.UNIT) for a in axes), *g.layout[dim + 1 :])
    )
    return gathered_to(g, before.layout)


def _pair_axis(field: Field, p: int) -> Any:
    return np.expand_dims(np.expand_dims(field.kernel, field.places + p), p)


def _padded(field: Field, dim: int, m: int, p: int, at: Any, total: int, role: Role) -> Field:
    """Zeros at all positions of an axis but some."""
    del dim
    shape = list(field.second.shape)
    given = np.take(field.second, range(len(at)), m)
    shape[m] = total
    second, mean = np.zeros(shape), np.zeros(shape)
    window = (slice(None),) * m + (at,)
    second[window] = given
    mean[window] = np.take(field.mean, range(len(at)), m)
    kernel = field.kernel
    if role is Role.PLACE:
        n = field.places
        order = np.moveaxis(kernel, (p, n + p), (0, 1))[: len(at), : len(at)]
        wide = np.zeros((total, total, *order.shape[2:]))
        wide[np.ix_(at, at)] = order
        kernel = np.moveaxis(wide, (0, 1), (p, n + p))
        return replace(field, mean=mean, second=second, kernel=kernel)
    profile = np.zeros(shape)
    profile[window] = np.take(field.rows, range(len(at)), m) * (total / len(at))
    kernel = kernel * (len(at) * max(len(at) - 1, 0) / max(total * (total - 1), 1))
    return replace(field, mean=mean, second=second, kernel=kernel, profile=profile)


def _taken(operation: Operation, argument: Any, dim: int, index: Sequence[int], output: Any, *, drop: bool) -> None:
    given = operation.value(argument)
    if isinstance(given, Noise) or not hasattr(given, "field"):
        if hasattr(given, "piece_of"):
            operation.trace.bind(output, given.piece_of(dim, index, drop=drop))
            return
        raise NotImplementedError(f"a piece of {type(given).__name__.lower()}")
    x = operation.node(argument)
    before = x.field
    if len(index) == 0:
        operation.trace.bind(output, Constant(torch.zeros(output.shape, device="cpu")))
        return
    made = piece(before, dim, index)
    kept = made.layout
    if drop:
        made = made.with_layout((*kept[:dim], *kept[dim + 1 :]))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient.with_layout((*gradient.layout[:dim], (), *gradient.layout[dim:])) if drop else gradient
        return [added_back(g, before, dim, index)]

    node = Node(made, tags=x.lasting_tags)
    if not before.layout[dim] or not any(axis.is_mapped for axis in before.layout[dim]):
        # Some of the units are as good as all: a function of a signal stays one.
        node = Node(made, tags={**x.lasting_tags, "part-of": x.key})
    operation.emit(made, [x], pullback, output=output, node=node)


@rule("select", "slice", "narrow")
def _select(operation: Operation) -> None:
    x = operation.args[0]
    rank = x.dim()
    dim = operation.argument(1, "dim", 0) % rank
    size = int(x.shape[dim])
    name = operation.name.removeprefix("aten::")
    if name == "select":
        at = operation.args[2] % size
        index: Sequence[int] = range(at, at + 1)
    elif name == "narrow":
        start = operation.args[2] % size
        index = range(start, start + operation.args[3])
    else:
        start, stop, step = (operation.argument(i, key) for i, key in ((2, "start"), (3, "end"), (4, "step")))
        index = range(size)[slice(start, stop, step)]
    if name != "select" and len(index) == size:
        operation.trace.bind(operation.first, operation.value(x))
        return
    _taken(operation, x, dim, index, operation.first, drop=name == "select")


@rule(
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "unsafe_split",
    "unsafe_chunk",
    "unsafe_split_with_sizes",
    "tensor_split",
    "split_copy",
    "unbind_copy",
)
def _split(operation: Operation) -> None:
    x = operation.args[0]
    unbind = "unbind" in operation.name
    dim = operation.argument(1 if unbind else 2, "dim", 0) % x.dim()
    start = 0
    for output in operation.output:
        n = 1 if unbind else int(output.shape[dim])
        _taken(operation, x, dim, range(start, start + n), output, drop=unbind)
        start += n
