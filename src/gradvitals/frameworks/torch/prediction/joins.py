"""Pieces put together: concatenation, stacking, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.layouts import moved
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.pieces import _pair_axis, piece, put_back
from gradvitals.frameworks.torch.prediction.transformed import Function
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import common_layout, cut, gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Layout, Role, constant_field, shape_of
from gradvitals.maths.scatter import NONE


@rule("cat", "concat", "stack")
def _cat(operation: Operation) -> None:
    tensors = list(operation.args[0])
    dim = operation.argument(1, "dim", 0)
    stack = operation.name == "aten::stack"
    dim %= operation.first.dim()
    signals = [t for t in tensors if isinstance(operation.value(t), Node)]
    if not signals:
        signals = [t for t in tensors if isinstance(operation.value(t), Constant)]
    if not signals:
        raise NotImplementedError("pieces of which none is a signal")
    tensors = [t for t in tensors if t.numel() or len(tensors) == 1]
    first = operation.node(signals[0])
    reference = first.field if stack else piece(first.field, dim, [0])  # other pieces have other sizes along it
    fields = [operation.beside(t, reference) for t in tensors]
    if stack:
        fields = [f.with_layout((*f.layout[:dim], (), *f.layout[dim:])) for f in fields]
    sizes = [1 if stack else int(t.shape[dim]) for t in tensors]
    made, role = _joined(fields, sizes, dim)
    starts = np.cumsum([0, *sizes])
    values = [operation.value(t) for t in tensors]
    places = [at for at, value in enumerate(values) if isinstance(value, Node)]
    inputs: list[Node] = [values[at] for at in places]

    def into(nodes: Sequence[Node], layout: Layout, gradient: Field) -> Sequence[Field]:
        found = []
        g = gathered_to(gradient, layout)
        for at, node in zip(places, nodes, strict=True):
            part = piece(g, dim, range(int(starts[at]), int(starts[at + 1]))) if len(sizes) > 1 else g
            if stack:
                part = part.with_layout((*part.layout[:dim], *part.layout[dim + 1 :]))
            found.append(gathered_to(part, node.field.layout))
        return found

    function = None if stack or len(inputs) < len(tensors) else _function_of_all(inputs)
    node = Node(made)
    if function is not None:  # the same function of each: it is that of them together, of which a largest may be asked
        roots = [given.root for given in inputs]
        whole = _joined([r.field for r in roots], sizes, dim)[0]
        node = Node(made, Node(whole), function)
        operation.trace.steps.append(Step(node.root, tuple(roots), lambda g: into(roots, whole.layout, g)))
        operation.trace.steps.append(
            Step(node, tuple(inputs), lambda g: into(inputs, made.layout, g), shown=True, name=operation.name)
        )
    if role is Role.UNIT and len(inputs) == len(tensors) and not stack and dim == 1:
        node.tags["joined"] = tuple(part for given in inputs for part in _parts(given))
    if function is None:
        operation.emit(made, inputs, lambda g: into(inputs, made.layout, g), node=node)
    else:
        operation.emit(made, [node.root], lambda g: [node.backwards(g)], node=node)


def _joined(fields: Sequence[Field], sizes: Sequence[int], dim: int) -> tuple[Field, Role]:
    """Fields side by side along a dimension, and the role that it has."""
    layout = list(common_layout([(*f.layout[:dim], (), *f.layout[dim + 1 :]) for f in fields]))
    roles = [axis.role for f in fields for axis in f.layout[dim]]
    last = dim == len(layout) - 1
    role = next((r for r in (Role.PLACE, Role.PIXEL, Role.UNIT) if r in roles), None)
    if role is None:
        has_units = any(axis.role is Role.UNIT for d in layout for axis in d)
        role = Role.PLACE if has_units and not last else Role.UNIT
    parts = []
    for f, n in zip(fields, sizes, strict=True):
        layout[dim] = (Axis(n, role),) if n > 1 else ()
        parts.append(spread_to(f, tuple(layout)))
    layout[dim] = (Axis(sum(sizes), role),) if sum(sizes) > 1 else ()
    return _together(parts, sizes, dim, role, tuple(layout)), role


def _function_of_all(nodes: Sequence[Node]) -> Function | None:
    """The function that all of them are, each of its own signal."""
    if any(node.source is None or node.function is None or node.is_drawn for node in nodes):
        return None
    function = nodes[0].root_function
    scale = max(6 * math.sqrt(max(node.root.field.mean_square, 1e-300)) for node in nodes)
    grid = torch.linspace(-scale, scale, 65, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        values = [node.root_function(grid) for node in nodes]
    return function if all(torch.equal(one, values[0]) for one in values) else None


def _parts(node: Node) -> tuple[Node, ...]:
    """What a signal was put together of: itself, if it wasn't."""
    known = node.tags.get("joined")
    return known if isinstance(known, tuple) else (node,)


def _together(parts: Sequence[Field], sizes: Sequence[int], dim: int, role: Role, layout: Any) -> Field:
    """Independent pieces side by side."""
    if len(parts) == 1:
        return parts[0].with_layout(layout)
    shares = np.asarray(sizes) / sum(sizes)
    sizes_ = [float(s) * p.mean_square for s, p in zip(shares, parts, strict=True)]
    inherited = NONE
    for size, part in zip(sizes_, parts, strict=True):
        inherited = inherited + part.inherited.times(size / max(sum(sizes_), 1e-300))
    kurtosis = float(sum(s * p.kurtosis for s, p in zip(shares, parts, strict=True)))
    if role not in (Role.PLACE, Role.PIXEL):
        shape = tuple(min(n) for n in zip(*(p.second.shape for p in parts), strict=True))
        parts = [cut(p, shape) for p in parts]
        return Field(
            layout,
            sum(s * p.mean for s, p in zip(shares, parts, strict=True)),
            sum(s * p.second for s, p in zip(shares, parts, strict=True)),
            sum(s * p.kernel for s, p in zip(shares, parts, strict=True)),
            inherited,
            kurtosis,
        )
    whole = constant_field(layout, 0.0)
    m, p = whole.array_axis(dim, 0)
    grown = []
    for part, n in zip(parts, sizes, strict=True):
        if n > 1:
            grown.append(part)
            continue
        grown.append(
            replace(
                part,
                mean=np.expand_dims(part.mean, m),
                second=np.expand_dims(part.second, m),
                kernel=_pair_axis(part, p) if role is Role.PLACE else part.kernel,
                layout=(*part.layout[:dim], (Axis(1, role),), *part.layout[dim + 1 :]),
            )
        )
    held = [min(n) for n in zip(*(g.second.shape for g in grown), strict=True)]
    grown = [cut(g, (*held[:m], g.second.shape[m], *held[m + 1 :])) for g in grown]
    mean = np.concatenate([g.mean for g in grown], axis=m)
    second = np.concatenate([g.second for g in grown], axis=m)
    if role is Role.PIXEL:
        kernel = sum(s * g.kernel for s, g in zip(shares, grown, strict=True))
        return Field(layout, mean, second, kernel, inherited, kurtosis)
    n = grown[0].places
    rows = []
    for a in grown:
        blocks = [a.kernel if a is b else np.multiply.outer(_flat_mean(a), _flat_mean(b)) for b in grown]
        rows.append(np.concatenate(blocks, axis=n + p))
    return Field(layout, mean, second, np.concatenate(rows, axis=p), inherited, kurtosis)


def _flat_mean(field: Field) -> Any:
    pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
    return field.mean.mean(axis=pixels) if pixels else field.mean


@rule("constant_pad_nd")
def _pad(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    pads = list(operation.args[1])
    before = x.field
    rank = len(before.layout)
    made = before
    steps: list[tuple[Field, int, list[int], bool]] = []
    for at in range(len(pads) // 2):
        d = rank - 1 - at
        low, high = pads[2 * at : 2 * at + 2]
        n = shape_of(made.layout)[d]
        if low < 0 or high < 0:
            index = list(range(max(-low, 0), n - max(-high, 0)))
            steps.append((made, d, index, True))
            made = piece(made, d, index)
            n, low, high = len(index), max(low, 0), max(high, 0)
        if low > 0 or high > 0:
            steps.append((made, d, list(range(low, low + n)), False))
            made = _widened(made, d, low, n + low + high)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        for earlier, d, index, cropped in reversed(steps):
            g = put_back(g, earlier, d, index) if cropped else gathered_to(piece(g, d, index), earlier.layout)
        return [g]

    moved(operation, x, made, pullback)


def _widened(field: Field, dim: int, low: int, total: int) -> Field:
    axes = field.layout[dim]
    n = math.prod(axis.size for axis in axes)
    if not axes or not any(axis.is_mapped for axis in axes):
        role = Role.UNIT if axes else Role.PLACE
        if role is Role.UNIT:
            layout = (*field.layout[:dim], (Axis(total, Role.UNIT),), *field.layout[dim + 1 :])
            return field.scaled(n / total).with_layout(layout)
    role = Role.PIXEL if axes and all(axis.role is Role.PIXEL for axis in axes) else Role.PLACE
    before = constant_field((*field.layout[:dim], (Axis(total, role),), *field.layout[dim + 1 :]), 0.0)
    return put_back(field, before, dim, list(range(low, low + n)))
