"""Signals that are written into a part of another tensor, as loops over time keep what they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.draws import At, Call
from gradvitals.frameworks.torch.prediction.measured import measured_as, measured_beside
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.pieces import piece, put_back
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Role, constant_field


@rule("copy_")
def _copied(operation: Operation) -> None:
    """What was there is gone."""
    target, given = operation.args[:2]
    value = operation.value(given)
    if not isinstance(value, Node):
        if not isinstance(value, Constant):
            raise NotImplementedError(f"{type(value).__name__.lower()} written into a tensor")
        with torch.no_grad():
            operation.trace.bind(operation.first, replace(value.seen_as(value.held.expand(target.shape)), owned=False))
        return
    if tuple(target.shape) != tuple(given.shape):
        raise NotImplementedError("a signal written into several places")
    operation.trace.bind(operation.first, value)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Of what tensor a view is a part, and how it was taken."""

    base: torch.Tensor
    function: Any
    arguments: tuple[Any, ...]
    dim: int
    index: range
    dropped: bool


def view_of(name: str, function: Any, args: Sequence[Any]) -> View | None:
    """What a view of some positions along one dimension is a view of."""
    operator = name.removeprefix("aten::")
    if operator not in {"select", "slice"}:
        return None
    base = args[0]
    given = [*args[1:], *[None] * 4]
    dim = int(given[0] or 0) % max(base.dim(), 1)
    size = int(base.shape[dim])
    if operator == "select":
        at = int(given[1]) % size
        return View(base, function, tuple(args[1:]), dim, range(at, at + 1), dropped=True)
    step = given[3] if given[3] is not None else 1
    index = range(size)[slice(given[1], given[2], step)]
    return View(base, function, tuple(args[1:]), dim, index, dropped=False)


def written(trace: Any, view: View, base: Any, part: Any) -> Node | None:
    """The whole behind a part of it that was written: a signal, if either is one and both are known."""
    if not isinstance(part, Node) and not isinstance(base, Node):
        return None
    if not all(isinstance(one, (Node, Constant)) for one in (base, part)):
        return None
    try:
        return _by_moments(trace, view, base, part)
    except (NotImplementedError, ValueError, IndexError):
        if not isinstance(base, Node):
            raise
        from gradvitals.frameworks.torch.prediction.repeated import drawn_later  # which imports the rules

        return drawn_later(trace, _call(view, base, part), base.layout)


def _by_moments(trace: Any, view: View, base: Any, part: Any) -> Node:
    dim, index = view.dim, view.index
    inner = _beside(part, base, view)
    layout = _layout(inner, base, dim, int(view.base.shape[dim]))
    whole = _masked(spread_to(_field(base, layout), layout), dim, index)
    inner_layout = (
        *layout[:dim],
        (Axis(len(index), layout[dim][0].role),) if len(index) > 1 else (),
        *layout[dim + 1 :],
    )
    inner = spread_to(inner, inner_layout)
    new = put_back(inner, _zeros_like(whole), dim, index)
    made = replace(
        whole,
        mean=whole.mean + new.mean * _mean_share(layout, dim, index),
        second=whole.second + new.second,
        kernel=whole.kernel + new.kernel,
        inherited=_shared(whole, new),
        own=None,
        kurtosis=max(whole.kurtosis, new.kurtosis),
    ).consistent()
    call = _call(view, base, part)
    node = Node(made, call=call)
    inputs = [one for one in (part, base) if isinstance(one, Node)]

    def pullback(gradient: Field) -> list[Field]:
        g = gathered_to(gradient, layout)
        found = []
        if isinstance(part, Node):
            one = gathered_to(piece(g, dim, index), inner_layout)
            one = one.with_layout((*one.layout[:dim], *one.layout[dim + 1 :])) if view.dropped else one
            found.append(gathered_to(one, part.field.layout))
        if isinstance(base, Node):
            found.append(gathered_to(_masked(g, dim, index), base.field.layout))
        return found

    before = _roots(base.tags.get("written")) if isinstance(base, Node) else frozenset()
    added = frozenset({part.root.key}) if isinstance(part, Node) else frozenset()
    node.tags["written"] = before | added
    if before & added or any(one.is_drawn for one in inputs):  # parts that are alike, or drawn
        from gradvitals.frameworks.torch.prediction.repeated import drawn_node  # which imports the rules

        return drawn_node(trace, call, layout)
    trace.steps.append(Step(node, tuple(inputs), pullback, name="aten::copy_"))
    return node


def _roots(tag: object) -> frozenset[int]:
    """The signals, by their keys, that were written into a tensor before."""
    return tag if isinstance(tag, frozenset) else frozenset()


def _call(view: View, base: Any, part: Any) -> Call:
    """The write as an operation that can be repeated on draws of the whole and of the part."""

    def write(whole: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        whole = whole.clone()
        view.function(whole, *view.arguments).copy_(new)
        return whole

    given = tuple(one if isinstance(one, Node) else one.value.detach() for one in (base, part))
    given = tuple(g.double() if isinstance(g, torch.Tensor) and g.is_floating_point() else g for g in given)
    return Call(write, ((At(0), At(1)), {}), given, writes=True)


def _beside(part: Any, base: Any, view: View) -> Field:
    """The part with the dimension along which it is one."""
    if isinstance(part, Node):
        field = part.field
        if view.dropped:
            field = field.with_layout((*field.layout[: view.dim], (), *field.layout[view.dim :]))
        return field
    known = part.value.detach()
    known = known.unsqueeze(view.dim) if view.dropped else known
    return measured_beside(known, piece(base.field, view.dim, view.index))


def _layout(inner: Field, base: Any, dim: int, size: int) -> Any:
    """The whole's, by the one that is a signal already; else positions before the last dimension are places."""
    if isinstance(base, Node):
        if len(base.field.layout[dim]) > 1:
            raise NotImplementedError("a part across several axes")
        return base.layout
    known = [axis.role for axis in inner.layout[dim]]
    has_units = any(axis.role is Role.UNIT for d, axes in enumerate(inner.layout) if d != dim for axis in axes)
    role = known[0] if known else Role.PLACE if has_units and dim < len(inner.layout) - 1 else Role.UNIT
    role = Role.UNIT if role is Role.COPY else role
    return (*inner.layout[:dim], (Axis(size, role),) if size > 1 else (), *inner.layout[dim + 1 :])


def _field(base: Any, layout: Any) -> Field:
    """The moments of the whole before anything was written into it."""
    if isinstance(base, Node):
        return base.field
    value = base.value.detach()
    return measured_as(value, layout) if bool((value != 0).any()) else constant_field(layout, 0.0)


def _masked(field: Field, dim: int, index: range) -> Field:
    """Zero at some positions along a dimension."""
    (axis,) = field.layout[dim] or (Axis(1, Role.UNIT),)
    if not axis.is_mapped:
        return field.scaled(1 - len(index) / axis.size)
    if axis.role is Role.PIXEL:
        raise NotImplementedError("a part of an image that is written")
    m, p = field.array_axis(dim, 0)
    keep = np.ones(field.second.shape[m])
    keep[[at for at in index if at < len(keep)]] = 0.0
    by = keep.reshape([-1 if at == m else 1 for at in range(field.second.ndim)])
    n = field.places
    rows = keep.reshape([-1 if at == p else 1 for at in range(2 * n)])
    columns = keep.reshape([-1 if at == n + p else 1 for at in range(2 * n)])
    return replace(field, mean=field.mean * by, second=field.second * by, kernel=field.kernel * rows * columns)


def _zeros_like(field: Field) -> Field:
    """Zeros in a field's place."""
    zero = np.zeros_like
    return replace(field, mean=zero(field.mean), second=zero(field.second), kernel=zero(field.kernel))


def _mean_share(layout: Any, dim: int, index: range) -> float:
    """Of units that share a mean, by the root that their squares were scaled with."""
    if not layout[dim] or layout[dim][0].is_mapped:
        return 1.0
    return math.sqrt(len(index) / layout[dim][0].size)


def _shared(whole: Field, new: Field) -> Any:
    total = max(whole.mean_square + new.mean_square, 1e-300)
    return whole.inherited.times(whole.mean_square / total) + new.scatter.times(new.mean_square / total)
